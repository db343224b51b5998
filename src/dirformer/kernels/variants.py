"""For which processors the C++ kernels are compiled, and with which flags.

The wheel's build (`hatch_build.py`) and compiling on first use take the same flags: both give the same bytes.
Only the standard library is imported: the wheel is built without PyTorch.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("inference.cpp", "training.cpp", "exemplar.cpp"))
HEADERS = tuple(FOLDER / name for name in ("products.h", "sweep.h", "backward.h"))
BUILT = FOLDER / "built"
"""Where a wheel holds its libraries; a source tree has no such folder."""
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-fno-exceptions", "-pthread")


@dataclass(frozen=True)
class Variant:
    """Kernels for all processors that have some features."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]
    """As Linux names them in /proc/cpuinfo."""


_V3 = frozenset(["avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
_V4_FLAGS = ("-march=x86-64-v4", "-mprefer-vector-width=512")
_X86 = (
    Variant("x86-64-v4-bf16", (*_V4_FLAGS, "-mavx512bf16"), _V4 | {"avx512_bf16"}),
    Variant("x86-64-v4", _V4_FLAGS, _V4),
    Variant("x86-64-v3", ("-march=x86-64-v3",), _V3),
    Variant("x86-64", (), frozenset()),
)


def variants() -> tuple[Variant, ...]:
    """Return the variants of this kind of processor, the fastest first; the last one runs on all of them."""
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64"}:
        return _X86
    return (Variant(machine or "default", (), frozenset()),)


def fitting() -> tuple[Variant, ...]:
    """Return those that this processor can run, the fastest first."""
    features = processor_features()
    return tuple(variant for variant in variants() if variant.features <= features)


def processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features that every core has; none where the system does not say."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    pairs = (line.partition(":") for line in lines)
    sets = [frozenset(words.split()) for key, _, words in pairs if key.strip() in {"flags", "Features"}]
    return frozenset.intersection(*sets) if sets else frozenset()


def has_bfloat16() -> bool:
    """Say whether this processor multiplies bfloat16 numbers itself."""
    return bool(processor_features() & {"avx512_bf16", "bf16"})  # x86, ARM


def library_name(source: Path, variant: Variant) -> str:
    """Return the file name of the compiled source in a wheel."""
    return f"{source.stem}-{variant.name}.so"


def command(compiler: str, source: Path, variant: Variant, target: Path) -> list[str]:
    """Return the command that compiles a source into a library."""
    # Without its symbol table a library is a third smaller; macOS has no such option.
    strip = [] if sys.platform == "darwin" else ["-s"]
    return [
        compiler,
        *_FLAGS,
        *strip,
        *variant.flags,
        f"-I{FOLDER}",
        str(source),
        "-o",
        str(target),
    ]
