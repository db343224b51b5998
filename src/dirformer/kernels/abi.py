"""The C structs that the kernels take, field by field, and the check that both sides agree on them.

Each class mirrors the struct of its name in `sweep.h` or one of the `.cpp` files.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from dirformer.kernels.build import CompilerMissingError


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p


class Sweep(ctypes.Structure):
    """One sweep over a band of a map."""

    _fields_ = [
        *_fields(_LONG, "kind half low centred width channels wide inner heads step block"),
        *_fields(_POINTER, "scale shift expand expand_bias depthwise depthwise_bias project project_bias"),
        *_fields(_LONG, "cuts modulations mixings"),
        *_fields(_POINTER, "ends left across below down"),
    ]


class Conv(ctypes.Structure):
    """One convolution of a band."""

    _fields_ = [
        *_fields(_LONG, "half low width inputs outputs taps shuffle"),
        *_fields(_POINTER, "weights bias"),
        ("slope", ctypes.c_float),
    ]


class Part(ctypes.Structure):
    """One part of a block in training."""

    _fields_ = [
        *_fields(_LONG, "kind half low centred photos height width channels inner heads threads groups"),
        *_fields(_POINTER, "scale shift expand depthwise project"),
    ]


class Gradients(ctypes.Structure):
    """Where the gradients of a part's tensors go."""

    _fields_ = _fields(_POINTER, "scale shift expand depthwise project")


class Level(ctypes.Structure):
    """One level of a photo whose holes are filled by exemplars."""

    _fields_ = [
        *_fields(_LONG, "height width targets threads"),
        *_fields(_POINTER, "colour weight source index target"),
    ]


def declare(
    lib: ctypes.CDLL,
    functions: Mapping[str, tuple[type[ctypes.Structure], str]],
    *structs: type[ctypes.Structure],
) -> ctypes.CDLL:
    """Check the sizes of `structs` against the library's and say what its functions take.

    Args:
        lib: the compiled library.
        functions: by name, the struct that comes first, and what follows it: `p` a pointer, `n` a number.
        structs: in the library's order.

    Raises:
        CompilerMissingError: if a function is missing or a struct has another size there: library and Python
            file do not belong together.
    """
    for name in ("dirformer_lanes", "dirformer_has_low", "dirformer_abi_size", *functions):
        if not hasattr(lib, name):
            raise CompilerMissingError(f"the compiled kernels lack {name}; install dirformer again")
    lib.dirformer_lanes.restype = lib.dirformer_has_low.restype = _LONG
    lib.dirformer_abi_size.restype, lib.dirformer_abi_size.argtypes = _LONG, [_LONG]
    for place, struct in enumerate(structs):
        size, expected = lib.dirformer_abi_size(place), ctypes.sizeof(struct)
        if size != expected:
            raise CompilerMissingError(
                f"{struct.__name__} has {size} bytes in the compiled kernels and {expected} in {__name__}; "
                "install dirformer again"
            )
    for name, (struct, rest) in functions.items():
        function = getattr(lib, name)
        function.restype = _LONG
        function.argtypes = [ctypes.POINTER(struct), *(_POINTER if c == "p" else _LONG for c in rest)]
    return lib
