"""PyTorch pickles, read by an interpreter of their opcodes that knows no way to execute anything.

Tensors, plain containers, numbers and strings come back as they are. Everything else that a file names comes
back as an `Inert` placeholder. Whatever a hostile file asks for is bounded: opcodes, nesting, keys, bytes.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer.ground.errors import CheckpointError

MAX_BYTES = 8 * 2**30
"""A file that unpacks to more is refused: the largest released network has 0.2 GB."""
MAX_RATIO = 16
"""Unpacked bytes over packed ones: checkpoints that were packed again have up to 5, zip bombs hundreds."""
MAX_PICKLE = 2**26
"""Bytes of opcodes."""
MAX_OPCODES = 2_000_000
"""Released checkpoints have below 0.2 million; optimiser states of Lightning files a few more."""
MAX_DEPTH = 100
"""Containers inside containers."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a file from before PyTorch 1.6."""

Storages = Callable[[str, torch.dtype, int], Tensor]
"""Key, type and number of values → storage."""


class Inert:
    """Stands for whatever a file names that is neither a tensor nor a plain container."""


def read_foreign(path: Path) -> Any:
    """Read a PyTorch pickle without executing anything in it.

    Each storage is kept once: tensors that share one in the file share it here too.

    Raises:
        CheckpointError: if the file is missing, is no PyTorch file, is damaged, or exceeds a bound.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; give an authors' .pth or .ckpt file")
    try:
        with path.open("rb") as file:
            return _read_archive(file, path) if zipfile.is_zipfile(file) else _read_legacy(file, path)
    except CheckpointError:
        raise
    except (
        *(EOFError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError),
        *(RuntimeError, OSError, zipfile.BadZipFile),
    ) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{path} is damaged: {reason[:200]}") from None


def _read_archive(file: io.BufferedReader, path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > MAX_BYTES:
            raise CheckpointError(
                f"{path} unpacks to over {MAX_BYTES // 2**30} GiB; this is no DiffIR checkpoint"
            )
        # Weights are hardly compressible, and torch.save does not try: memory is bounded by the file's size.
        if total > MAX_RATIO * path.stat().st_size:
            raise CheckpointError(
                f"{path} unpacks to {total} bytes, over {MAX_RATIO} times its size; "
                "expected an archive as torch.save writes it"
            )
        name = next((entry.filename for entry in entries if entry.filename.endswith("data.pkl")), None)
        if name is None:
            raise CheckpointError(f"{path} is a zip archive without tensors; expected a PyTorch checkpoint")
        root = name.removesuffix("data.pkl")

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            data = bytearray(archive.read(f"{root}data/{key}"))
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"storage {key!r} has {len(data)} bytes; expected {count * dtype.itemsize}")
            return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)

        if archive.getinfo(name).file_size > MAX_PICKLE:
            raise ValueError(f"its pickle has over {MAX_PICKLE // 2**20} MiB")
        return _Machine(storage).run(io.BytesIO(archive.read(name)))


def _read_legacy(file: io.BufferedReader, path: Path) -> Any:
    """Read a file from before PyTorch 1.6: pickles one after the other, then the storages."""
    file.seek(0)
    foreign = CheckpointError(f"{path} is not a PyTorch checkpoint; give an authors' .pth or .ckpt file")
    try:
        magic = _Machine(_no_storage).run(file)
    except (EOFError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError):
        raise foreign from None
    if type(magic) is not int or magic != _MAGIC:
        raise foreign
    size = path.stat().st_size
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        taken = sum(known.nbytes for known in storages.values())
        if taken + count * dtype.itemsize > size:
            raise ValueError(f"its storages have more bytes than the file, {size}")
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    for _ in range(2):  # protocol and byte order
        _Machine(_no_storage).run(file)
    content = _Machine(storage).run(file)
    for key in _Machine(_no_storage).run(file):
        values = storages[key]
        if int.from_bytes(file.read(8), "little") != len(values):
            raise ValueError(f"storage {key!r} has another size than its tensors")
        data = file.read(values.nbytes)
        if len(values):
            values.copy_(torch.frombuffer(bytearray(data), dtype=values.dtype))
    return content


def _no_storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
    raise ValueError(f"storage {key!r} of {count} {dtype} stands where none can be")


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(slots=True)
class _Nested:
    """A value on the stack, and how many containers lie inside each other in it."""

    value: Any
    depth: int = 0


@dataclass
class _Machine:
    """One pickle: a stack of values, marks in it, and a memo."""

    storage_of: Storages
    stack: list[_Nested] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, _Nested] = field(default_factory=dict)
    storages: dict[str, Tensor] = field(default_factory=dict)

    def run(self, file: io.BytesIO | io.BufferedReader) -> Any:
        """Interpret one pickle and return what it describes; ValueError or LookupError if that is refused."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES:
                raise ValueError(f"its pickle has over {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                return self.stack.pop().value
            handle = _OPCODES.get(opcode.name)
            if handle is None:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which no checkpoint needs")
            handle(self, argument)
        raise ValueError("its pickle ends too early")

    def push(self, value: Any, *parts: _Nested) -> None:
        """Push a value; `parts` are what it is made of."""
        depth = 1 + max((part.depth for part in parts), default=0) if parts else 0
        self.stack.append(_Nested(value, self.checked(depth)))

    def checked(self, depth: int) -> int:
        """Return the depth; ValueError if it exceeds the bound."""
        if depth > MAX_DEPTH:
            raise ValueError(f"its pickle nests over {MAX_DEPTH} containers")
        return depth

    def marked(self) -> list[_Nested]:
        """Pop what was pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def popped(self, count: int) -> list[_Nested]:
        """Pop so many values."""
        if len(self.stack) < count:
            raise ValueError("its pickle takes from an empty stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def drop(self, items: list[_Nested]) -> None:
        """Forget what was popped."""

    def mark(self) -> None:
        """Remember a place on the stack."""
        self.marks.append(len(self.stack))

    def extend(self, items: list[_Nested]) -> None:
        """Append to the list on top, or forget what a placeholder is given."""
        self.grow(items)
        target = self.stack[-1].value
        if isinstance(target, list):
            target.extend(item.value for item in items)

    def update(self, items: list[_Nested]) -> None:
        """Set keys of the dictionary on top, or forget what a placeholder is given."""
        self.grow(items)
        target = self.stack[-1].value
        if isinstance(target, dict):
            target.update(_pairs([item.value for item in items]))

    def grow(self, items: list[_Nested]) -> None:
        """Take items into the depth of the container on top."""
        deepest = max((item.depth for item in items), default=0)
        self.stack[-1].depth = self.checked(max(self.stack[-1].depth, 1 + deepest))

    def remember(self, place: int) -> None:
        """Put the top into the memo."""
        self.memo[place] = self.stack[-1]

    def call(self, *, marked: bool = False) -> None:
        """Push what a function or class would return: one of the few known, else a placeholder."""
        function, *rest = self.marked() if marked else self.popped(2)
        arguments = [item.value for item in rest] if marked else rest[0].value
        known = _CALLS.get(function.value) if isinstance(function.value, _Global) else None
        arguments = arguments if isinstance(arguments, tuple | list) else ()
        self.push(Inert() if known is None else known(*arguments), *rest)

    def global_(self, module: Any, name: Any) -> None:
        """Push a name that a file refers to."""
        if module in ("torch", "torch.storage") and name in _DTYPES:
            self.push(_DTYPES[name])
        else:
            key = _Global(f"{module}.{name}")
            self.push(key if key in _CALLS else Inert())

    def persistent(self, description: Any) -> None:
        """Push a storage."""
        kind, dtype, key, _, count, *_rest = description
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise ValueError("it describes a storage in an unknown way")
        if key not in self.storages:
            self.storages[str(key)] = self.storage_of(str(key), dtype, count)
        self.push(self.storages[str(key)])


class _Global(str):
    """The name of a function or class; a string from the file is not one."""

    __slots__ = ()


def _key(value: Any) -> Any:
    # Hashing a nested tuple takes as long, and as much of the C stack, as its author likes.
    if not isinstance(value, str | bytes | int | float | Inert | torch.dtype | None):
        raise ValueError(f"a key is a {type(value).__name__}; expected text or a number")  # noqa: TRY004
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _mapping(items: Any = (), *_: Any) -> dict[Any, Any]:
    return {_key(key): value for key, value in items}


def _set(items: Any = (), *_: Any) -> set[Any]:
    return {_key(item) for item in items}


def _list(items: Any = (), *_: Any) -> list[Any]:
    return list(items)


def _size(items: Any = (), *_: Any) -> tuple[Any, ...]:
    return tuple(items)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    count = math.prod(size)
    if not isinstance(storage, Tensor) or not 0 <= count <= storage.numel():
        held = storage.numel() if isinstance(storage, Tensor) else 0
        raise ValueError(f"a tensor of {count} values on a storage of {held}")
    return storage.as_strided(size, stride, offset)


_CALLS: dict[str, Callable[..., Any]] = {
    _Global("collections.OrderedDict"): _mapping,
    _Global("builtins.dict"): _mapping,
    _Global("builtins.list"): _list,
    _Global("builtins.set"): _set,
    _Global("__builtin__.set"): _set,  # of pickles for Python 2
    _Global("torch._utils._rebuild_tensor_v2"): _tensor,
    _Global("torch._utils._rebuild_parameter"): _parameter,
    _Global("torch.Size"): _size,
}


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda m, _: m.push(value)


def _argument(m: _Machine, argument: Any) -> None:
    m.push(argument)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def handle(m: _Machine, _: Any) -> None:
        items = m.popped(count)
        m.push(tuple(item.value for item in items), *items)

    return handle


def _marked(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    def handle(m: _Machine, _: Any) -> None:
        items = m.marked()
        m.push(make([item.value for item in items]), *items)

    return handle


def _set_items(m: _Machine, items: list[_Nested]) -> None:
    m.grow(items)
    target = m.stack[-1].value
    if isinstance(target, set):
        target.update(_set([item.value for item in items]))


def _stack_global(m: _Machine) -> None:
    module, name = m.popped(2)
    m.global_(module.value, name.value)


_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, a: None),  # noqa: ARG005
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _argument),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _argument),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _argument),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _argument),
    "NONE": _constant(None),
    "NEWTRUE": _constant(value=True),
    "NEWFALSE": _constant(value=False),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.drop(m.popped(1)),
    "POP_MARK": lambda m, _: m.drop(m.marked()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": _marked(list),
    "TUPLE": _marked(tuple),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _marked(_pairs),
    "FROZENSET": _marked(_set),
    "APPEND": lambda m, _: m.extend(m.popped(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.update(m.popped(2)),
    "SETITEMS": lambda m, _: m.update(m.marked()),
    "ADDITEMS": lambda m, _: _set_items(m, m.marked()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.stack.append(m.memo[int(a)])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, a: m.remember(int(a))),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GLOBAL": lambda m, a: m.global_(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _stack_global(m),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "NEWOBJ_EX": lambda m, _: m.push(Inert(), *m.popped(3)),
    "INST": lambda m, _: m.push(Inert(), *m.marked()),
    "OBJ": lambda m, _: m.call(marked=True),
    # Attributes: `_metadata` of a state dict, else nothing that is read.
    "BUILD": lambda m, _: m.drop(m.popped(1)),
    "BINPERSID": lambda m, _: m.persistent(m.popped(1)[0].value),
}
