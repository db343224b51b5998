"""Context windows: the streamed result is that of a slow direct computation."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dirformer.ground.errors import ConfigError
from dirformer.inference.context import count_cells, make_axis
from dirformer.inference.engine import Engine
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import NORM_EPS, Attention, ModulatedNorm, attention_statistics
from dirformer.networks.presets import PRESETS
from helpers import TINY_INPAINTING, TINY_SR
from inference.test_engine import case, difference, make_kernels, plain, vivid

COLOURED = replace(TINY_SR, dim=12, heads=(1, 2, 1, 4), cpen_unshuffle=1, skip="nearest")
"""A multiple of 8, so that windows of 16 pixels have cells of one pixel on level 4."""


def spans_and_weights(length: int, cells: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Windows of one side, and how much of each a pixel sees (`windows length`), by interpolation."""
    edges = [i * length // cells for i in range(cells + 1)]
    if cells == 1:
        return [(0, length)], np.ones((1, length))
    spans = list(zip(edges[:-2], edges[2:], strict=True))
    places = np.arange(length) + 0.5
    weights = [np.interp(places, edges[1:-1], row) for row in np.eye(len(spans))]
    return spans, np.stack(weights)


def per_pixel(values: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """Values of windows `v w …` at every pixel: `y x …`."""
    return torch.einsum("vy,wx,vw...->yx...", torch.from_numpy(rows), torch.from_numpy(columns), values)


def attend(self: Attention, x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Attention of one photo `1 c h w`: each window's mixing, blended for each pixel on its own."""
    (down, across), (height, width) = self.cells, x.shape[2:]
    (ys, y_weights), (xs, x_weights) = spans_and_weights(height, down), spans_and_weights(width, across)
    q, k, v = self.qkv_depthwise(self.qkv(self.norm(x, prior))).chunk(3, dim=1)
    windows = []
    for a, b in ys:
        for c, d in xs:
            parts = (t[:, :, a:b, c:d].flatten(2).unflatten(1, (self.heads, -1)) for t in (q, k))
            windows.append(self.mixing(*attention_statistics(*parts))[0])
    mixings = torch.stack(windows).view(len(ys), len(xs), *windows[0].shape)
    mixed = torch.einsum("yxoi,iyx->oyx", per_pixel(mixings, y_weights, x_weights), v[0])[None]
    return mixed if self.project.bias is None else mixed + self.project.bias[:, None, None]


def modulate(self: ModulatedNorm, x: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Modulation by one IPR per window (`v·w p`, in `priors`), blended for each pixel."""
    (down, across), (height, width) = self.cells, x.shape[2:]
    (ys, y_weights), (xs, x_weights) = spans_and_weights(height, down), spans_and_weights(width, across)
    scale, shift = self.modulation(self.priors).view(len(ys), len(xs), -1).chunk(2, dim=2)
    rows = x[0].movedim(0, -1)
    deviation = (rows.var(-1, correction=0, keepdim=True) + NORM_EPS).sqrt()
    normed = rows / deviation if self.bias is None else (rows - rows.mean(-1, keepdim=True)) / deviation
    normed = normed * self.weight + (0 if self.bias is None else self.bias)
    scale, shift = (per_pixel(t, y_weights, x_weights) for t in (scale, shift))
    return (normed * scale + shift).movedim(-1, 0)[None]


def direct(
    model: DiffIRS2, lq: torch.Tensor, noise: torch.Tensor, cells: tuple[int, int], *, window_prior: bool
) -> torch.Tensor:
    """One photo in float64 by the plain modules, windows one by one and blended pixel by pixel."""
    model = copy.deepcopy(model).double()
    for module in model.dirformer.modules():
        if isinstance(module, Attention):
            module.cells, module.forward = cells, MethodType(attend, module)
        if isinstance(module, ModulatedNorm) and window_prior:
            module.cells, module.forward = cells, MethodType(modulate, module)
    with torch.no_grad():
        lq, noise = lq.double(), noise.double()
        conditions = model.cpen(lq)
        if window_prior:
            features = model.cpen.features(lq)[0]
            ys, xs = (spans_and_weights(n, k)[0] for n, k in zip(features.shape[1:], cells, strict=True))
            means = [features[:, a:b, c:d].mean((1, 2)) for a, b in ys for c, d in xs]
            conditions = model.cpen.head(torch.stack(means))
        priors = model.estimate(conditions, noise.expand(-1, len(conditions), -1))[-1]
        for module in model.dirformer.modules():
            if isinstance(module, ModulatedNorm):
                module.priors = priors
        return model.dirformer(lq, priors[:1])


CONFIGS = (
    COLOURED,
    replace(COLOURED, norm="bias_free", bias=True, dim=20, heads=(2, 1, 4, 2), softmax_axis="query"),
    replace(TINY_INPAINTING, cpen_unshuffle=2),
    replace(TINY_SR, scale=2, unshuffle=2, tail="nearest", cpen_unshuffle=2),
)


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize("window_prior", [False, True], ids=["window", "window-prior"])
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    config=st.sampled_from(CONFIGS),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    window=st.integers(2, 5),
    strip=st.sampled_from([1, 40, 1000]),
    threads=st.integers(1, 3),
)
def test_equals_direct_computation(
    kernels: str,
    window_prior: bool,
    config: ModelConfig,
    rows: int,
    columns: int,
    window: int,
    strip: int,
    threads: int,
) -> None:
    """Windows summed cell by cell and blended strip by strip are windows taken one by one, for all sizes."""
    model, side = vivid(config), window * config.multiple
    lq, noise = case(model, rows * config.multiple, columns * config.multiple)
    # Darker to the left, and a CPEN that makes much of it.
    lq = lq * torch.linspace(0, 1, lq.shape[3])
    with torch.no_grad():
        model.cpen.mlp[-1].weight.mul_(30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dirformer.kernels.native.PIXELS", strip)
        patch.setattr("dirformer.kernels.stock.STRIP", strip)
        patch.setattr("dirformer.inference.plan.STEP", strip)
        engine = Engine(
            model, kernels=make_kernels(kernels), threads=threads, window=side, window_prior=window_prior
        )
        got = engine.restore(lq, noise)
    cells = count_cells(lq.shape[2], side), count_cells(lq.shape[3], side)
    expected = direct(model, lq, noise, cells, window_prior=window_prior)
    assert difference(got.double(), expected) <= 1e-5


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize("window_prior", [False, True], ids=["window", "window-prior"])
def test_a_window_that_holds_the_photo_changes_nothing(kernels: str, window_prior: bool) -> None:
    """A window at least as large as the photo gives the whole photo's result."""
    model = vivid(COLOURED)
    lq, noise = case(model, 40, 56)
    for window in (56, 1000):
        engine = Engine(model, kernels=make_kernels(kernels), window=window, window_prior=window_prior)
        assert difference(engine.restore(lq, noise), plain(model, lq, noise)) <= 1e-5


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize("window_prior", [False, True], ids=["window", "window-prior"])
def test_bytes_do_not_depend_on_memory_or_threads(kernels: str, window_prior: bool, tmp_path: Path) -> None:
    """In windows too, one seed is one result: maps in memory or on disk, however many threads work."""
    model = vivid(COLOURED)
    lq, noise = case(model, 136, 72)
    options: dict[str, Any] = {"window": 32, "window_prior": window_prior, "kernels": make_kernels(kernels)}
    expected = Engine(model, threads=1, **options).restore(lq, noise)
    for threads in (1, 2, 3):
        assert torch.equal(Engine(model, threads=threads, **options).restore(lq, noise), expected)
        spilling = Engine(model, threads=threads, max_memory=2**40, folder=tmp_path, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dirformer.inference.plan.PIECE", 1)
            patch.setattr("dirformer.inference.plan._fit", lambda maps, *_: dict.fromkeys(maps, 3))
            assert torch.equal(spilling.restore(lq, noise), expected)
        assert spilling.plan.spilled > 0


@pytest.mark.parametrize(
    ("kernels", "precision", "storage", "decibels"),
    [
        ("native", torch.bfloat16, torch.float32, 60),
        ("stock", torch.bfloat16, torch.float32, 60),
        ("native", torch.float32, torch.bfloat16, 45),
        ("native", torch.bfloat16, torch.bfloat16, 45),
        ("stock", torch.float32, torch.bfloat16, 45),
    ],
)
def test_16_bit(kernels: str, precision: torch.dtype, storage: torch.dtype, decibels: float) -> None:
    """In windows too, 16-bit products stay above 60 dB of the 32-bit result, 16-bit maps above 45 dB."""
    model = vivid(replace(PRESETS["deblurring"], blocks=(1, 1, 1, 1), refinement_blocks=1))
    lq, noise = case(model, 64, 80)
    options: dict[str, Any] = {"window": 32, "window_prior": True}
    engine = Engine(model, kernels=make_kernels(kernels, precision), storage=storage, **options)
    got, expected = engine.restore(lq, noise), Engine(model, **options).restore(lq, noise)
    assert -10 * float((got - expected).square().mean().log10()) >= decibels


def test_windows_are_about_as_large_as_asked() -> None:
    """Cells are half a window, so that windows are off by a quarter at most; a side that short has one."""
    assert [count_cells(side, 64) for side in (8, 64, 79, 81, 96, 128, 1920)] == [1, 1, 1, 3, 3, 4, 60]
    for side in range(81, 400):
        axis = make_axis(side, count_cells(side, 64))
        widths = [b - a for a, b in zip(axis.bounds, axis.bounds[2:], strict=False)]
        assert min(widths) >= 48 and max(widths) <= 80
        assert axis.bounds[0] == 0 and axis.bounds[-1] == side and len(widths) == axis.windows


def test_too_small_a_window_is_one_line() -> None:
    """A window whose cells would vanish on the deepest level is refused with the smallest that works."""
    with pytest.raises(ConfigError, match="window is 15 pixels; this network needs at least 16"):
        Engine(vivid(COLOURED), window=15)
    Engine(vivid(COLOURED), window=16)
