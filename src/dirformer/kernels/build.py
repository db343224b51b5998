"""C++ kernels, loaded by ctypes: from the wheel, or compiled on first use where there is a compiler.

Three files of kernels: inference, training, and exemplar filling. Stock torch is there where they are not.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dirformer.kernels import cache, variants
from dirformer.kernels.cache import UntrustedError
from dirformer.kernels.variants import Variant

log = logging.getLogger(__name__)

SWITCH = "DIRFORMER_NATIVE"
"""Environment variable; 0 keeps to stock torch."""


class CompilerMissingError(Exception):
    """There are no compiled kernels here; the message says why."""


def compiled(source: Path) -> ctypes.CDLL:
    """Return the functions of a C++ file: the wheel's, those in the cache folder, or compiled now.

    Raises:
        CompilerMissingError: if they were switched off, or there is no compiler that builds them.
    """
    if os.environ.get(SWITCH) == "0":
        raise CompilerMissingError(f"switched off by {SWITCH}=0")
    if sys.platform == "win32":
        raise CompilerMissingError("there are no compiled kernels for Windows")
    if variants.BUILT.is_dir():
        return _packaged(source)
    compiler = _compiler()
    for variant in variants.fitting():
        try:
            return _cached(compiler, source, variant)
        except _RefusedError as refusal:
            # An old compiler does not know the newest processors.
            reason = f"{compiler} cannot build the kernels: {refusal}"
    raise CompilerMissingError(reason)


class _RefusedError(Exception):
    """The compiler does not compile this."""


def _packaged(source: Path) -> ctypes.CDLL:
    for variant in variants.fitting():
        path = variants.BUILT / variants.library_name(source, variant)
        if path.is_file():
            log.debug("%s: %s", source.stem, path.name)
            return _load(path)
    raise CompilerMissingError(f"this wheel has no {source.stem} kernels for this processor")


def _compiler() -> str:
    names = (os.environ.get("CXX") or "c++", "g++", "clang++")
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise CompilerMissingError("no C++ compiler found")
    return compiler


def _cached(compiler: str, source: Path, variant: Variant) -> ctypes.CDLL:
    stem = f"{source.stem}-{variant.name}-{_key(compiler, source, variant)}"
    try:
        folder = cache.cache_folder()
        if folder.exists():
            cache.check_folder(folder)
            path = cache.find(folder, stem)
            if path is not None:
                return _load(path)
        cache.prepare(folder)
        with cache.working_folder(folder) as work:
            part = Path(work) / f"{stem}.so"
            _compile(compiler, source, variant, part)
            path = cache.put(part, folder, stem)
        return _load(path)
    except UntrustedError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{folder} cannot be written: {error.strerror}"
    return _private(compiler, source, variant, reason)


def _private(compiler: str, source: Path, variant: Variant, reason: str) -> ctypes.CDLL:
    """Compile for this process alone: a loaded library needs its file no longer."""
    log.warning("kernels are compiled for this process only: %s", reason)
    try:
        with cache.working_folder() as work:
            part = Path(work) / f"{source.stem}.so"
            _compile(compiler, source, variant, part)
            return _load(part)
    except OSError as error:
        raise CompilerMissingError(f"kernels cannot be written anywhere: {error.strerror}") from None


def _compile(compiler: str, source: Path, variant: Variant, target: Path) -> None:
    order = variants.command(compiler, source, variant, target)
    result = subprocess.run(order, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise _RefusedError(lines[0])


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerMissingError(f"{path} cannot be loaded: {error}") from None


def _key(compiler: str, source: Path, variant: Variant) -> str:
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout  # noqa: S603
    except OSError as error:
        raise CompilerMissingError(f"{compiler} does not run: {error.strerror}") from None
    text = b"".join(path.read_bytes() for path in (source, *variants.HEADERS))
    order = " ".join(variants.command("", source, variant, Path()))
    return hashlib.blake2b(text + version + order.encode(), digest_size=8).hexdigest()
