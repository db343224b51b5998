"""C++ kernels, compiled on first use where there is a compiler, for this processor; loaded by ctypes.

Two files of kernels share `sweep.h`: inference and training. Stock torch is there where they are not.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

HEADER = Path(__file__).with_name("sweep.h")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-fno-exceptions", "-pthread")
SWITCH = "DIRFORMER_NATIVE"
"""Environment variable; 0 keeps to stock torch."""


class CompilerMissingError(Exception):
    """The kernels cannot be built here; the message says why."""


def compiled(source: Path) -> ctypes.CDLL:
    """Return the functions of a C++ file, compiled now or found in the cache folder.

    Raises:
        CompilerMissingError: if they were switched off, or there is no compiler that builds them.
    """
    if os.environ.get(SWITCH) == "0":
        raise CompilerMissingError(f"switched off by {SWITCH}=0")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        raise CompilerMissingError("no C++ compiler found")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout  # noqa: S603
    text = source.read_bytes() + HEADER.read_bytes()
    key = hashlib.blake2b(text + version + _processor(), digest_size=8).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dirformer"
    path = cache / f"{source.stem}-{key}.so"
    if not path.exists():
        try:
            _compile(compiler, source, path)
        except OSError as error:
            raise CompilerMissingError(f"kernels cannot be written to {cache}: {error.strerror}") from None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerMissingError(f"{path} cannot be loaded: {error}") from None


def _compile(compiler: str, source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        for target in ("-march=native", "-mcpu=native"):
            command = [compiler, *FLAGS, target, f"-I{HEADER.parent}", str(source), "-o", str(part)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if result.returncode == 0:
                part.replace(path)
                return
    lines = result.stderr.strip().splitlines() or ["no message"]
    raise CompilerMissingError(f"{compiler} cannot build the kernels: {lines[0]}")


def _processor() -> bytes:
    # Code for this very processor: a home folder may be shared by different ones.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "".join(
        sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    ).encode()
