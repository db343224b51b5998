"""Bands of a photo by Triton's kernels: the whole network, in memory and with maps that wait elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dirformer.inference import plan
from dirformer.inference.engine import Engine
from dirformer.kernels.stock import StockKernels
from dirformer.networks.config import ModelConfig
from helpers import TINY_INPAINTING, TINY_SR, tiny
from triton_device import DEVICE

from dirformer.kernels import launches, triton  # isort: skip - behind `triton_device`


@pytest.mark.slow  # the interpreter takes half a minute
@pytest.mark.parametrize(
    "config",
    [TINY_SR, replace(TINY_INPAINTING, bias=True, norm="bias_free")],
    ids=["sr", "inpainting"],
)
def test_bands_equal_the_modules(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows at a time, sums and wide maps cut differently: the network's own result to 1e-5."""
    monkeypatch.setattr(triton, "STRIP", 64)
    monkeypatch.setattr(launches, "WIDE", 3000)
    monkeypatch.setattr(plan, "GPU_STEP", 100)
    model = tiny(config)
    side = config.multiple
    lq = torch.rand(1, config.in_channels, 3 * side, 2 * side)
    noise = torch.randn(model.noise_shape[0], 1, model.noise_shape[1])
    with torch.inference_mode():
        expected = model.double()(lq.double(), noise.double())
        model = model.float().to(DEVICE)
        engine = Engine(model, kernels=triton.TritonKernels(device=DEVICE), max_memory=2**40)
        monkeypatch.setattr(engine, "_fits_whole", lambda *_: False)
        found = engine.restore(lq.to(DEVICE), noise.to(DEVICE)).cpu()
        assert (found.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
        engine.plan_for, limited = (
            (lambda *_, **__: limited),
            replace(engine.plan, resident=dict.fromkeys(("level 1", "level 2", "decoder 1"), 1), piece=1),
        )
        again = engine.restore(lq.to(DEVICE), noise.to(DEVICE)).cpu()
    assert (again.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow  # the interpreter takes half a minute
@pytest.mark.parametrize("window_prior", [False, True])
def test_windows_equal_stock_torch(window_prior: bool) -> None:
    """With attentions of windows, and IPRs of windows: what stock kernels compute, to 1e-5."""
    model = tiny(TINY_SR)
    lq = torch.rand(1, 3, 5 * TINY_SR.multiple, 6 * TINY_SR.multiple)
    noise = torch.randn(model.noise_shape[0], 1, model.noise_shape[1])
    options = {"window": 2 * TINY_SR.multiple, "window_prior": window_prior}
    expected = Engine(model, kernels=StockKernels(), **options).restore(lq, noise)
    model = model.to(DEVICE)
    kernels = triton.TritonKernels(device=DEVICE)
    found = Engine(model, kernels=kernels, **options).restore(lq.to(DEVICE), noise.to(DEVICE)).cpu()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
