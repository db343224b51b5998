"""Transformer blocks in training on a CPU: the same numbers from C++ (`training.cpp`), faster and smaller.

A block is three parts: the sums of its attention, its attention, its feed-forward. Each part is norm → 1×1 →
depth-wise 3×3 → head, and one `torch.autograd.Function` that keeps its input map and nothing wide.
`Block.forward` is the definition. `install` puts `forward` in its place; `usable` is asked at every call.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dirformer.ground.errors import ConfigError
from dirformer.kernels import abi
from dirformer.kernels.build import SWITCH, CompilerMissingError, compiled
from dirformer.kernels.gpus import fused_on
from dirformer.kernels.protocol import DMTA_DGFN, kind_of
from dirformer.networks.dirformer import Attention, Block, FeedForward

log = logging.getLogger(__name__)

_STATISTICS, _ATTEND, _FEED = range(3)
_GROUPS = 8
"""Gradients of weights are summed by at most so many groups of photos, whatever the number of threads."""


def install(model: nn.Module) -> None:
    """Let each transformer block of a model compute by kernels: by these in training, by Triton's on a GPU.

    Only the blocks' `forward` is replaced, on the instances; parameters and state dicts stay.
    Blocks of another kind are left alone.
    """
    for block in model.modules():
        if isinstance(block, Block) and kind_of(block) == DMTA_DGFN:
            # Past `Module.__setattr__`; a partial can be copied and pickled together with its block.
            vars(block)["forward"] = functools.partial(_forward, block)


def _forward(block: Block, x: Tensor, prior: Tensor) -> Tensor:
    if usable(block, x):
        return forward(block, x, prior)
    if x.device.type != "cpu" and not torch.compiler.is_compiling():
        fused = fused_on(x.device)
        if fused is not None and fused.usable(block, x):
            return cast("Tensor", fused.run(block, x, prior))
    return type(block).forward(block, x, prior)


def usable(block: Block, x: Tensor) -> bool:
    """Say whether `forward` can stand for the block: training in float32 or bfloat16 on a CPU, no biases."""
    return (
        not torch.compiler.is_compiling()  # first: a compiler looks no further
        and kind_of(block) == DMTA_DGFN
        and torch.is_grad_enabled()
        and type(x) is Tensor  # no subclass that traces or counts
        and x.device.type == "cpu"
        and x.dtype in {torch.float32, torch.bfloat16}
        and x.numel() > 0
        and block.attention.qkv.weight.dtype == torch.float32
        and block.attention.qkv.bias is None
        and _autocast() in {None, torch.bfloat16}
        and torch._C._get_tracing_state() is None  # noqa: SLF001
        and os.environ.get(SWITCH) != "0"
        and _library() is not None
    )


def forward(
    block: Block, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "priors p"]
) -> Float[Tensor, "b c h w"]:
    """Do what the block's own `forward` does; ConfigError for a map or a prior of another size."""
    low = x.dtype == torch.bfloat16 or _autocast() == torch.bfloat16
    with torch.autocast("cpu", enabled=False):  # what is left is small, and float32
        x = _attention(block.attention, x, prior.float(), low=low)
        return _feed_forward(block.feed_forward, x, prior.float(), low=low)


def _attention(part: Attention, x: Tensor, prior: Tensor, *, low: bool) -> Tensor:
    width, heads = x.shape[1], part.heads
    norm = _norm(part, x, prior)
    expand, depthwise = part.qkv.weight, part.qkv_depthwise.weight
    sums = _apply(_STATISTICS, heads, low, x, *norm, expand[: 2 * width], depthwise[: 2 * width], None)
    head, squares = width // heads, width * _padded(width // heads)
    gram = sums[:, :squares].view(len(x), heads, head, -1)[..., :head]
    q_squared, k_squared = sums[:, squares:][:, : 2 * width].view(len(x), 2, heads, head).unbind(1)
    mixing = part.mixing(gram, q_squared, k_squared)
    return _apply(_ATTEND, heads, low, x, *norm, expand[2 * width :], depthwise[2 * width :], mixing)


def _feed_forward(part: FeedForward, x: Tensor, prior: Tensor, *, low: bool) -> Tensor:
    norm = _norm(part, x, prior)
    return _apply(_FEED, 1, low, x, *norm, part.expand.weight, part.depthwise.weight, part.project.weight)


def _apply(*values: Any) -> Tensor:
    return _Sweep.apply(*values)  # type: ignore[no-untyped-call]


class _Sweep(torch.autograd.Function):
    """One part of a block: `x` with the part added, or the sums of an attention (see `training.cpp`)."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: int,
        heads: int,
        low: bool,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        centred: bool,
        expand: Tensor,
        depthwise: Tensor,
        project: Tensor | None,
    ) -> Tensor:
        _check(kind, heads, x, scale, shift, expand, depthwise, project)
        rows = x.movedim(1, -1).contiguous()
        tensors: Any = [
            t if t is None else t.contiguous() for t in (scale, shift, expand, depthwise, project)
        ]
        ctx.save_for_backward(rows, *tensors)
        ctx.kind, ctx.heads, ctx.low, ctx.centred = kind, heads, low, centred
        part = _part(ctx, rows, *tensors)
        if kind == _STATISTICS:
            width = x.shape[1]
            sums = rows.new_zeros(
                len(x), width * _padded(width // heads) + _padded(2 * width), dtype=torch.float32
            )
            _call("dirformer_forward", part, rows.data_ptr(), None, sums.data_ptr())
            return sums
        out = torch.empty_like(rows)
        _call("dirformer_forward", part, rows.data_ptr(), out.data_ptr(), None)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, shift, expand, depthwise, project = ctx.saved_tensors
        part = _part(ctx, rows, scale, shift, expand, depthwise, project)
        of_sums = ctx.kind == _STATISTICS
        gradient = gradient.contiguous() if of_sums else gradient.movedim(1, -1).contiguous()
        groups = part.groups
        dx, dscale, dshift = (torch.empty_like(t) for t in (rows, scale, shift))
        dexpand, ddepthwise = (t.new_empty(groups, *t.shape) for t in (expand, depthwise))
        dproject = None
        if project is not None:
            dproject = (
                torch.empty_like(project)
                if ctx.kind == _ATTEND
                else project.new_empty(groups, *project.shape)
            )
        gradients = abi.Gradients(*map(_pointer, (dscale, dshift, dexpand, ddepthwise, dproject)))
        pointer = gradient.data_ptr()
        _call(
            "dirformer_backward",
            part,
            rows.data_ptr(),
            *((None, pointer) if of_sums else (pointer, None)),
            dx.data_ptr(),
            ctypes.byref(gradients),
        )
        if dproject is not None and ctx.kind == _FEED:
            dproject = _summed(dproject)
        return (
            *(None, None, None, dx.movedim(-1, 1), dscale, dshift, None),
            *(_summed(dexpand), _summed(ddepthwise), dproject),
        )


def _check(
    kind: int,
    heads: int,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    expand: Tensor,
    depthwise: Tensor,
    project: Tensor | None,
) -> None:
    """Raise ConfigError unless sizes and types are what the kernels will read."""
    _require("the map", x, x.ndim == 4 and x.numel() > 0, "photos × channels × rows × columns, none empty")
    _require("the map", x, x.dtype in {torch.float32, torch.bfloat16}, "float32 or bfloat16")
    photos, width = x.shape[:2]
    _require("the map", x, width % heads == 0, f"channels for {heads} heads")
    wide = {_STATISTICS: 2 * width, _ATTEND: width, _FEED: len(expand) // 2 * 2}[kind]
    shapes = {
        "the norm's scale": (scale, (photos, width)),
        "the norm's shift": (shift, (photos, width)),
        "the first product": (expand, (wide, width, 1, 1)),
        "the depth-wise taps": (depthwise, (wide, 1, 3, 3)),
    }
    if kind == _ATTEND:
        shapes["the mixing"] = (_known(project), (photos, width, width))
    elif kind == _FEED:
        shapes["the last product"] = (_known(project), (width, wide // 2, 1, 1))
    for name, (tensor, shape) in shapes.items():
        fits = tuple(tensor.shape) == shape and tensor.dtype == torch.float32
        _require(name, tensor, fits and tensor.device == x.device, f"torch.float32 {shape} on {x.device}")


def _known(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ConfigError("compiled kernels: a product is missing; expected its weights")
    return tensor


def _require(name: str, tensor: Tensor, holds: bool, expected: str) -> None:
    if not holds:
        received = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        raise ConfigError(f"compiled kernels: {name} is {received}; expected {expected}")


def _norm(part: Attention | FeedForward, x: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, bool]:
    # One prior may stand for all photos.
    scale, shift = (
        values.expand(len(x), -1) if len(values) == 1 else values for values in part.norm.folded(prior)
    )
    return scale, shift, part.norm.bias is not None


def _summed(groups: Tensor) -> Tensor:
    return groups[0] if len(groups) == 1 else groups.sum(0)


def _part(
    ctx: Any,
    rows: Tensor,
    scale: Tensor,
    shift: Tensor,
    expand: Tensor,
    depthwise: Tensor,
    project: Tensor | None,
) -> abi.Part:
    photos, height, width, channels = rows.shape
    return abi.Part(
        kind=ctx.kind,
        half=rows.dtype == torch.bfloat16,
        low=ctx.low,
        centred=ctx.centred,
        photos=photos,
        height=height,
        width=width,
        channels=channels,
        inner=len(expand) // 2 if ctx.kind == _FEED else channels,
        heads=ctx.heads,
        threads=min(torch.get_num_threads(), photos),
        groups=min(_GROUPS, photos),
        scale=scale.data_ptr(),
        shift=shift.data_ptr(),
        expand=expand.data_ptr(),
        depthwise=depthwise.data_ptr(),
        project=_pointer(project),
    )


def _autocast() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    functions = {"dirformer_forward": (abi.Part, "pppp"), "dirformer_backward": (abi.Part, "pppppp")}
    try:
        source = Path(__file__).with_name("training.cpp")
        return abi.declare(compiled(source), functions, abi.Part, abi.Gradients)
    except CompilerMissingError as error:
        log.info("training uses stock torch: %s", error)
        return None


@functools.cache
def _lanes() -> int:
    lib = _library()
    assert lib is not None
    return lib.dirformer_lanes()


def _padded(count: int) -> int:
    return -(-count // _lanes()) * _lanes()


_local = threading.local()


def _call(name: str, part: abi.Part, *pointers: Any) -> None:
    function = getattr(_library(), name)
    size = function(part, *[None] * (len(pointers) + 1))
    space = getattr(_local, "space", None)
    if space is None or len(space) < size + 64:
        _local.space = space = torch.empty(size + 64, dtype=torch.uint8)
    function(part, *pointers, -space.data_ptr() % 64 + space.data_ptr())


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
