"""`doctor`: what this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from dirformer import __version__
from dirformer.cli.options import Json
from dirformer.cli.terminal import say, write_json

_BASE = ("torch", "numpy", "pillow", "imagecodecs", "tifffile", "safetensors", "pydantic", "typer")
_OWN = "dirformer"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def doctor(as_json: Json = None) -> None:
    """Say what this machine has: versions, devices, memory, kernels, weights, and what extras lack."""
    found = checkup()
    for title, rows in found.items():
        say(f"{title}:")
        for name, value in rows.items():
            say(f"  {name:24} {value}")
    write_json(as_json, {"schema": 1, **found})


def checkup() -> dict[str, dict[str, str]]:
    """Return what is found, by section and name, in words."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "memory": _memory(),
        "kernels": _kernels(),
        "weights": _weights(),
        "extras": _extras(),
    }


def _versions() -> dict[str, str]:
    rows = {_OWN: __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    rows["system"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return rows | {name: _version(name) or "missing: pip install dirformer" for name in _BASE}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    import torch

    from dirformer.ground.device import choose_device
    from dirformer.kernels.variants import fitting, has_bfloat16

    native = "bfloat16 in hardware" if has_bfloat16() else "no bfloat16: float32 is computed instead"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = {"cpu": f"{cores} cores, {torch.get_num_threads()} threads, {fitting()[0].name}, {native}"}
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        rows[f"cuda:{number}"] = f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB"
    if torch.backends.mps.is_available():
        rows["mps"] = "Apple GPU"
    if len(rows) == 1 and torch.version.cuda is None:
        rows["gpu"] = "none; this PyTorch is built without CUDA"
    return rows | {"auto": str(choose_device())}


def _memory() -> dict[str, str]:
    import tempfile

    from dirformer.ground.memory import available_memory, total_memory

    def words(size: int | None) -> str:
        return "unknown" if size is None else f"{size / 2**30:.1f} GiB"

    place = Path(tempfile.gettempdir())
    return {
        "machine": words(total_memory()),
        "free now": words(available_memory()),
        "disk for large photos": f"{words(shutil.disk_usage(place).free)} free in {place}",
    }


def _kernels() -> dict[str, str]:
    import torch

    from dirformer.kernels import cache, variants
    from dirformer.kernels.build import CompilerMissingError, compiled
    from dirformer.kernels.cache import UntrustedError
    from dirformer.kernels.gpus import reason_against

    rows = {}
    for source in variants.SOURCES:
        try:
            rows[source.stem] = f"compiled: {compiled(source)._name}"  # noqa: SLF001
        except CompilerMissingError as reason:
            rows[source.stem] = f"stock PyTorch, slower: {reason}"
    for number in range(torch.cuda.device_count()):
        against = reason_against(torch.device("cuda", number))
        rows[f"cuda:{number}"] = f"stock PyTorch: {against}" if against else "Triton, compiled on first use"
    if variants.BUILT.is_dir():
        rows["cache"] = "not needed: the kernels came with the package"
        return rows
    try:
        folder = cache.cache_folder()
        state = "not there yet"
        if folder.exists():
            cache.check_folder(folder)
            state = "trusted"
        rows["cache"] = f"{folder}: {state}"
    except (UntrustedError, OSError) as reason:
        rows["cache"] = f"not used: {reason}"
    return rows


def _weights() -> dict[str, str]:
    from dirformer.weights.catalog import CATALOG

    rows = {}
    for entry in CATALOG.values():
        if entry.path.is_file():
            digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()
            rows[entry.name] = f"{entry.path.stat().st_size / 1e6:.1f} MB, sha256 {digest}"
        else:
            rows[entry.name] = "missing: install the package again"
    return rows


def _extras() -> dict[str, str]:
    """Return for each extra what it lacks; the packages are those that the installed package names."""
    try:
        facts = importlib.metadata.metadata(_OWN)
    except PackageNotFoundError:
        return {"all": "unknown: the package is not installed"}
    needs = {extra: list[str]() for extra in facts.get_all("Provides-Extra") or []}
    for line in facts.get_all("Requires-Dist") or []:
        package, extra = _NAME.match(line), _EXTRA.search(line)
        if package is not None and extra is not None and package[0] != _OWN:
            needs[extra[1]].append(package[0])
    return {extra: _state(extra, packages) for extra, packages in sorted(needs.items()) if extra != "dev"}


def _state(extra: str, packages: list[str]) -> str:
    missing = [package for package in packages if _version(package) is None]
    if not missing:
        return "ready"
    return f"missing {', '.join(missing)}: pip install '{_OWN}[{extra}]'"
