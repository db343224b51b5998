"""Transformer blocks of whole maps on a GPU, in training and in restoring: the same numbers by `launches.py`.

In training a part of a block (the sums of its attention, its attention, its feed-forward) keeps its input map
alone; its wide map is computed again for the gradient. In restoring the residual stream is float32, whatever
precision the products have.

`Block.forward` is the definition. `autograd.install` puts `run` in its place, and `usable` is
asked at every call.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dirformer.kernels import launches
from dirformer.kernels.build import SWITCH
from dirformer.kernels.launches import Part, make_part
from dirformer.kernels.precision import multiplies_in_tf32
from dirformer.kernels.protocol import DMTA_DGFN, Conv, block_weights, kind_of, weights_state
from dirformer.kernels.triton import Packed
from dirformer.networks.dirformer import Attention, Block, FeedForward

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of maps and of products."""
HEAD = 128
"""The widest head whose attention one program can hold."""


def run(
    block: Block, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "priors p"]
) -> Float[Tensor, "b c h w"]:
    """Do what the block's own `forward` does."""
    return forward(block, x, prior) if torch.is_grad_enabled() else restored(block, x, prior)


def usable(block: Block, x: Tensor) -> bool:
    """Say whether these kernels can stand for the block: no float16 and no biases in training."""
    training = torch.is_grad_enabled()
    return (
        kind_of(block) == DMTA_DGFN
        and type(x) is Tensor  # no subclass that traces or counts
        and x.numel() > 0
        and x.dtype in TYPES
        and _precision(x) in (TYPES[:2] if training else TYPES)
        and block.attention.qkv.weight.dtype == torch.float32
        and (block.attention.qkv.bias is None or not training)
        and len(block.attention.qkv.weight) // 3 // block.attention.heads <= HEAD
        and torch._C._get_tracing_state() is None  # noqa: SLF001
        and os.environ.get(SWITCH) != "0"
    )


def probe(device: torch.device) -> None:
    """Run the first kernel on a tiny map, so that a compiler that does not work is known in time."""
    weight, taps = torch.ones(16, 16, 1, 1, device=device), torch.ones(16, 1, 3, 3, device=device)
    part = make_part(Conv(weight, None), Conv(taps, None), torch.float32, gated=False, centred=True)
    ones = torch.ones(1, 16, device=device)
    launches.widened(part, torch.ones(1, 1, 1, 16, device=device), ones, ones)


def _precision(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# ------------------------------------------------------------------------------------------------- restoring


@torch.no_grad()
def restored(
    block: Block, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "priors p"]
) -> Float[Tensor, "b c h w"]:
    """Do what the block's own `forward` does, without a gradient, in float32 between its parts."""
    packed = _packed(block, _precision(x))
    with torch.autocast(x.device.type, enabled=False):
        rows = x.movedim(1, -1).float().contiguous()
        norm = _norm(block.attention, rows, prior.float())
        gram, squares = launches.sums_of(packed.qk, rows, *norm, packed.stock.heads)
        matrix = block.attention.project.weight.detach().flatten(1)
        weight = packed.v.weight
        mixing = launches.mixed(block.attention, gram, squares, matrix, weight.dtype, packed.v.product)
        out = torch.empty_like(rows)
        launches.add_part(packed.v, rows, out, *norm, mixing, packed.stock.attention_bias)
        norm = _norm(block.feed_forward, rows, prior.float())
        launches.add_part(packed.feed, out, out, *norm, packed.matrix, packed.stock.project.bias)
        return out.movedim(-1, 1)


def _packed(block: Block, precision: torch.dtype) -> Packed:
    """Return the block's weights as the kernels read them: those of the last call, if none has changed."""
    tf32 = multiplies_in_tf32()
    state = precision, tf32, weights_state(block)
    known = vars(block).get("_packed_for_triton")
    if known is None or known[0] != state:
        known = vars(block)["_packed_for_triton"] = state, Packed(block_weights(block), precision, tf32=tf32)
    packed: Packed = known[1]
    return packed


# -------------------------------------------------------------------------------------------------- training


def forward(
    block: Block, x: Float[Tensor, "b c h w"], prior: Float[Tensor, "priors p"]
) -> Float[Tensor, "b c h w"]:
    """Do what the block's own `forward` does, with a gradient."""
    precision = _precision(x)
    with torch.autocast(x.device.type, enabled=False):  # what is left is small, and float32
        rows = x.movedim(1, -1).contiguous()
        attention, feed = block.attention, block.feed_forward
        weights = attention.qkv.weight, attention.qkv_depthwise.weight, attention.project.weight
        norm = _norm(attention, rows, prior.float())
        rows = _apply(_Attended, attention, precision, rows, *norm, *weights, attention.temperature)
        norm = _norm(feed, rows, prior.float())
        weights = feed.expand.weight, feed.depthwise.weight, feed.project.weight
        rows = _apply(_Fed, feed, precision, rows, *norm, *weights)
        return rows.movedim(-1, 1)


def _apply(part: type[torch.autograd.Function], *values: Any) -> Any:
    return part.apply(*values)  # type: ignore[no-untyped-call]


def _norm(part: Attention | FeedForward, rows: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    # One prior may stand for all photos.
    scale, shift = part.norm.folded(prior)
    return scale.expand(len(rows), -1).contiguous(), shift.expand(len(rows), -1).contiguous()


def _part(
    module: Attention | FeedForward, precision: torch.dtype, expand: Tensor, taps: Tensor, *, gated: bool
) -> Part:
    tf32 = multiplies_in_tf32()
    centred = module.norm.bias is not None
    return make_part(Conv(expand, None), Conv(taps, None), precision, gated=gated, centred=centred, tf32=tf32)


class _Attended(torch.autograd.Function):
    """The map with its attention added."""

    @staticmethod
    def forward(
        ctx: Any,
        attention: Attention,
        precision: torch.dtype,
        rows: Tensor,
        scale: Tensor,
        shift: Tensor,
        expand: Tensor,
        depthwise: Tensor,
        project: Tensor,
        temperature: Tensor,  # noqa: ARG004 - for its gradient
    ) -> Tensor:
        ctx.part = part = _part(attention, precision, expand, depthwise, gated=False)
        wide = launches.widened(part, rows, scale, shift)
        gram, squares = launches.summed(part, wide, attention.heads, rows.shape[1], 0)
        matrix = project.flatten(1).contiguous()
        mixing = launches.mixed(attention, gram, squares, matrix, precision, part.product)
        out = torch.empty_like(rows)
        launches.projected(part, wide, mixing, None, rows, out, 0, first=2 * rows.shape[-1])
        ctx.attention = attention
        ctx.save_for_backward(rows, scale, shift, gram, squares, matrix, mixing)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, shift, gram, squares, matrix, mixing = ctx.saved_tensors
        part: Part = ctx.part
        gradient = gradient.contiguous()
        wide = launches.widened(part, rows, scale, shift)
        q_and_k, values = launches.spread(part, wide).flatten(1, 2).tensor_split([2 * rows.shape[-1]], dim=2)
        low = gradient.to(mixing.dtype).flatten(1, 2)
        of_mixing = torch.bmm(low.transpose(1, 2), values)
        pull, *found = launches.mixed_backward(ctx.attention, of_mixing, gram, squares, matrix, part.product)
        slopes = torch.cat([torch.bmm(q_and_k, pull), torch.bmm(low, mixing)], dim=2).view_as(wide)
        of_temperature, of_project = found
        below = launches.behind(part, slopes, wide, rows, scale, shift, gradient)
        return None, None, *below, of_project[..., None, None], of_temperature


class _Fed(torch.autograd.Function):
    """The map with its feed-forward added."""

    @staticmethod
    def forward(
        ctx: Any,
        feed: FeedForward,
        precision: torch.dtype,
        rows: Tensor,
        scale: Tensor,
        shift: Tensor,
        expand: Tensor,
        depthwise: Tensor,
        project: Tensor,
    ) -> Tensor:
        ctx.part = part = _part(feed, precision, expand, depthwise, gated=True)
        matrix = project.flatten(1).to(precision).contiguous()
        out = torch.empty_like(rows)
        wide = launches.widened(part, rows, scale, shift)
        launches.projected(part, wide, matrix, None, rows, out, 0)
        ctx.save_for_backward(rows, scale, shift, matrix)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, shift, matrix = ctx.saved_tensors
        part: Part = ctx.part
        gradient = gradient.contiguous()
        wide = launches.widened(part, rows, scale, shift)
        slopes, gated = launches.gate_backward(part, wide, matrix, gradient)
        low = gradient.to(matrix.dtype).flatten(0, 2)
        of_project = (low.T @ gated.flatten(0, 2))[:, : part.inner].float()
        below = launches.behind(part, slopes, wide, rows, scale, shift, gradient)
        return None, None, *below, of_project[..., None, None]
