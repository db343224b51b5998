"""The streaming engine: the network's own results, whatever the photo is cut into and wherever it is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dirformer.ground.errors import ConfigError
from dirformer.inference.engine import Engine
from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.protocol import Kernels
from dirformer.kernels.stock import StockKernels
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.presets import PRESETS
from helpers import SRC, TINY_INPAINTING, TINY_SR, tiny
from parity import formula

ENTRIES = {part: formula.golden(part)["entries"] for part in ("small", "full")}
STAGE_2 = [(part, name) for part, entries in ENTRIES.items() for name in entries if name.endswith("_s2")]


def make_kernels(name: str, precision: torch.dtype = torch.float32) -> Kernels:
    if name == "stock":
        return StockKernels(precision)
    try:
        return NativeKernels(precision)
    except CompilerMissingError as reason:
        pytest.skip(f"no compiled kernels here: {reason}")


def vivid(config: ModelConfig) -> DiffIRS2:
    """A random network whose norms, temperatures and modulation all matter."""
    model = tiny(config)
    assert isinstance(model, DiffIRS2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "temperature" in name or "norm.weight" in name:
                parameter.add_(torch.rand(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                parameter.copy_(0.2 * torch.rand(parameter.shape, generator=generator) - 0.1)
    return model


def case(model: DiffIRS2, height: int, width: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    lq = torch.rand(batch, model.config.in_channels, height, width, generator=generator)
    count, size = model.noise_shape
    return lq, torch.randn(count, batch, size, generator=generator)


def plain(model: DiffIRS2, lq: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(lq, noise)


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize(("part", "name"), STAGE_2, ids=[name for _, name in STAGE_2])
def test_released_networks(part: str, name: str, kernels: str) -> None:
    """The engine gives the released networks' golden outputs and conditions, in every task and size."""
    entry = ENTRIES[part][name]
    model = formula.build(entry["constructor_args"], 2)
    data = formula.inputs(entry)
    engine = Engine(model, kernels=make_kernels(kernels), threads=1)
    for key, got, tolerance in (
        ("d", engine.condition(data["lq"]), 5e-6),
        ("output", engine.restore(data["lq"], data["z_T"][None]), 2e-5),
    ):
        golden = entry["tensors"][key]
        samples = got.flatten()[formula.sample_indices(got.numel())]
        assert list(got.shape) == golden["shape"]
        assert float((samples - torch.tensor(golden["samples"])).abs().max()) <= tolerance * golden["peak"]


BASES = (
    TINY_SR,
    TINY_INPAINTING,
    replace(TINY_SR, scale=2, unshuffle=2, tail="nearest", cpen_unshuffle=2),
    replace(TINY_SR, tail="nearest", skip="nearest"),
    replace(TINY_SR, scale=1, unshuffle=4, tail="shuffle"),
)
FIELDS = st.fixed_dictionaries(
    {
        "dim": st.sampled_from([4, 12, 20, 52]),
        "heads": st.sampled_from([(1, 1, 1, 1), (2, 1, 4, 2)]),
        "ffn_factor": st.sampled_from([1.1, 1.8, 2.66]),
        "norm": st.sampled_from(["with_bias", "bias_free"]),
        "bias": st.booleans(),
        "softmax_axis": st.sampled_from(["key", "query"]),
        "temperature": st.sampled_from(["multiply", "divide"]),
    }
)


@pytest.mark.parametrize("kernels", ["native", "stock"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    base=st.integers(0, len(BASES) - 1),
    fields=FIELDS,
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    batch=st.integers(1, 2),
    threads=st.integers(1, 3),
    strip=st.sampled_from([1, 40, 1000]),
)
def test_equals_plain_forward(
    kernels: str,
    base: int,
    fields: dict[str, Any],
    rows: int,
    columns: int,
    batch: int,
    threads: int,
    strip: int,
) -> None:
    """All widths, sizes, strip heights, batches and thread counts give the plain modules' result."""
    config = replace(BASES[base], **fields)
    model = vivid(config)
    lq, noise = case(model, rows * config.multiple, columns * config.multiple, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dirformer.kernels.native.PIXELS", strip)
        patch.setattr("dirformer.kernels.stock.STRIP", strip)
        patch.setattr("dirformer.inference.plan.STEP", strip)
        got = Engine(model, kernels=make_kernels(kernels), threads=threads).restore(lq, noise)
    assert difference(got, plain(model, lq, noise)) <= 1e-5


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset(preset: str, kernels: str) -> None:
    """Each preset's own tail, skip and CPEN are streamed as they are."""
    config = replace(PRESETS[preset], blocks=(1, 1, 1, 1), cpen_blocks=1)
    config = replace(config, refinement_blocks=min(1, config.refinement_blocks))
    model = vivid(config)
    lq, noise = case(model, config.multiple, 2 * config.multiple)
    got = Engine(model, kernels=make_kernels(kernels)).restore(lq, noise)
    assert difference(got, plain(model, lq, noise)) <= 1e-5


@pytest.mark.parametrize("kernels", ["native", "stock"])
@pytest.mark.parametrize("config", [TINY_SR, TINY_INPAINTING], ids=["sr", "inpainting"])
def test_bytes_do_not_depend_on_memory_or_threads(kernels: str, config: ModelConfig, tmp_path: Path) -> None:
    """One seed, one result: with maps in memory or on disk, and however many threads work."""
    model = vivid(config)
    lq, noise = case(model, 16 * config.multiple, 6 * config.multiple)
    shared_kernels = make_kernels(kernels)
    expected = Engine(model, kernels=shared_kernels, threads=1).restore(lq, noise)
    for threads in (1, 2, 3):
        engine = Engine(model, kernels=shared_kernels, threads=threads)
        assert torch.equal(engine.restore(lq, noise), expected)
        spilling = Engine(model, kernels=shared_kernels, threads=threads, max_memory=2**40, folder=tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            # These photos are too small for a real limit: three rows of each map stay, one block at a time.
            patch.setattr("dirformer.inference.plan.PIECE", 1)
            patch.setattr("dirformer.inference.plan._fit", lambda maps, *_: dict.fromkeys(maps, 3))
            assert torch.equal(spilling.restore(lq, noise), expected)
        assert spilling.plan.spilled > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kernels", ["native", "stock"])
def test_one_photo_equals_its_place_in_a_batch(kernels: str) -> None:
    """A photo's bytes do not depend on what else is in the batch."""
    model = vivid(TINY_SR)
    lq, noise = case(model, 16, 24, batch=3)
    engine = Engine(model, kernels=make_kernels(kernels))
    together = engine.restore(lq, noise)
    for i in range(3):
        assert torch.equal(engine.restore(lq[i : i + 1], noise[:, i : i + 1])[0], together[i])


def test_too_small_a_limit_is_one_line() -> None:
    """A limit nothing fits in is answered with the smallest that works."""
    model = vivid(TINY_SR)
    with pytest.raises(ConfigError, match="smallest that works is"):
        Engine(model, max_memory=2**20).restore(*case(model, 64, 64))


@pytest.mark.parametrize(
    ("kernels", "precision", "storage", "decibels"),
    [
        ("native", torch.bfloat16, torch.float32, 60),
        ("stock", torch.bfloat16, torch.float32, 60),
        ("stock", torch.float16, torch.float32, 70),
        ("native", torch.float32, torch.bfloat16, 45),
        ("stock", torch.float32, torch.bfloat16, 45),
    ],
)
def test_16_bit(kernels: str, precision: torch.dtype, storage: torch.dtype, decibels: float) -> None:
    """16-bit products stay above 60 dB of the 32-bit result, 16-bit maps above 45 dB."""
    model = vivid(PRESETS["deblurring"])
    lq, noise = case(model, 64, 48)
    engine = Engine(model, kernels=make_kernels(kernels, precision), storage=storage)
    got, expected = engine.restore(lq, noise), plain(model, lq, noise)
    assert -10 * float((got - expected).square().mean().log10()) >= decibels


def test_kernels_can_be_switched_off() -> None:
    """Without a compiler, or with DIRFORMER_NATIVE=0, stock torch does the work, and the log says so."""
    program = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from dirformer.kernels.choose import choose_kernels\n"
        "print(choose_kernels().name)"
    )
    for change, reason in (
        ({"DIRFORMER_NATIVE": "0"}, "switched off"),
        ({"PATH": "", "CXX": "none"}, "no C++ compiler"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(SRC)} | change,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == "stock torch"
        assert reason in result.stderr


def test_overflow_in_16_bit_is_redone_in_32(caplog: pytest.LogCaptureFixture) -> None:
    """A 16-bit result that is not finite is computed again in float32, and the log says so."""
    model = vivid(TINY_SR)
    with torch.no_grad():
        model.dirformer.embed.weight.mul_(1e6)
    lq, noise = case(model, 16, 16)
    with caplog.at_level("WARNING"):
        got = Engine(model, precision=torch.float16).restore(lq, noise)
    assert "restored in float32" in caplog.text
    assert difference(got, plain(model, lq, noise)) <= 1e-5
