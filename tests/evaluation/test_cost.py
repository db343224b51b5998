"""Cost: parameters exactly, Mult-Adds as an independent count of the released networks has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dirformer.evaluation import cost as room
from dirformer.evaluation.cost import cost, cost_table, executed
from dirformer.evaluation.count import Part, count_parts, published, total
from dirformer.evaluation.shapes import mult_adds_of
from dirformer.ground.errors import ConfigError
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIRS1
from dirformer.networks.presets import PRESETS
from dirformer.weights.checkpoints import save

# Parameters of stage 2, of the DIRformer and of CPEN, counted with the authors' classes.
PARAMETERS = {
    "inpainting": (26_402_474, 25_150_698, 1_054_400),
    "inpainting-big": (49_482_922, 48_009_578, 1_275_968),
    "sr-x4": (24_971_206, 23_459_142, 1_314_688),
    "realsr-x2": (24_981_574, 23_464_326, 1_319_872),
    "realsr-x1": (25_023_046, 23_485_062, 1_340_608),
    "deblurring": (26_911_934, 25_669_374, 1_045_184),
}
# G Mult-Adds of a 256×256 input, counted with the authors' classes: total, convolutions, products, CPEN.
MULT_ADDS = {
    "inpainting": (50.558, 47.850, 2.702, 3.775),
    "inpainting-big": (70.546, 67.346, 3.190, 4.681),
    "sr-x4": (722.507, 658.814, 63.686, 77.423),
    "sr-x2": (180.802, 164.873, 15.922, 19.441),
    "realsr-x1": (45.375, 41.388, 3.980, 4.945),
    "deblurring": (120.990, 108.978, 12.004, 3.737),
}
TINY = ModelConfig(
    task="sr", scale=4, dim=4, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 2, 2), tail="nearest",
    cpen_dim=4, cpen_blocks=1, prior_dim=8,
)  # fmt: skip


def parts_of(config: ModelConfig, side: int, stage: int = 2) -> list[Part]:
    with torch.device("meta"):
        return count_parts(STAGES[stage](config), side, side)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_exact(name: str) -> None:
    """Totals and parts have the parameter counts of the authors' classes; parts leave nothing out."""
    parts = {part.name: part for part in parts_of(PRESETS[name], 64)}
    rest = sum(p.parameters for n, p in parts.items() if n not in ("cpen", "denoiser, per step"))
    whole = total(parts.values(), 4).parameters
    assert PARAMETERS[name] == (whole, rest, parts["cpen"].parameters)
    assert parts["denoiser, per step"].parameters == 197_376


@pytest.mark.parametrize("name", MULT_ADDS)
def test_mult_adds_of_the_released_networks(name: str) -> None:
    """Every digit of the independent count, within 0.1 % and in fact to the last one given."""
    parts = parts_of(PRESETS[name], 256)
    whole = total(parts, 4)
    found = (whole.mult_adds, whole.convolutions, whole.matmul, parts[0].mult_adds)
    assert MULT_ADDS[name] == tuple(round(count / 1e9, 3) for count in found)


@pytest.mark.parametrize(("name", "figure"), [("inpainting", 51.63), ("sr-x4", 740)])
def test_published_counting_gives_the_papers_figures(name: str, figure: float) -> None:
    """Layers only, CPEN and denoiser twice: 51.63 G and 0.74 T, which the true totals do not give."""
    count = published(parts_of(PRESETS[name], 256), 4) / 1e9
    assert figure == (round(count, 2) if figure < 100 else round(count, -1))


def test_deblurring_is_78_percent_of_restormer() -> None:
    """Counted alike, the deblurring network needs 78 % of Restormer's 154.882 G."""
    result = cost("deblurring", measure=False)
    assert round(result["restormer_mult_adds"] / 1e9, 3) == 154.882
    assert round(result["of_restormer"], 2) == 0.78


def test_stage_1_costs_what_table_4_prints(tmp_path: Path) -> None:
    """47.97 G as published, 50.670 G in all, 26,232,746 parameters; a stage-1 file is counted as such."""
    result = cost("inpainting", stage=1, measure=False)
    assert round(result["published"] / 1e9, 2) == 47.97
    assert round(result["total"]["mult_adds"] / 1e9, 3) == 50.670
    assert result["total"]["parameters"] == 26_232_746
    table = cost_table(result)
    assert "47.97 G at 256×256 (quoted, Table 4)" in table and "stage 1" in table and "denoiser" not in table
    save(tmp_path / "s1.safetensors", DiffIRS1(TINY))
    found = cost(str(tmp_path / "s1.safetensors"), (32, 32), device="cpu")
    assert found["stage"] == 1 and found["measured"]["seconds"] > 0
    parts = parts_of(TINY, 32, 1)
    assert found["total"]["mult_adds"] == total(parts, 0).mult_adds
    with pytest.raises(ConfigError, match="is a stage-1 network; leave --stage out"):
        cost(str(tmp_path / "s1.safetensors"), stage=2)


def test_the_papers_costs_come_out_at_its_widths() -> None:
    """48 channels: 26 M and 51.63 G, 0.74 T, 78.1 % of Restormer, for the presets of both wordings."""
    for wording in ("paper", "literal"):
        inpainting = cost(f"inpainting-{wording}", measure=False, execute=False)
        assert PRESETS[f"inpainting-{wording}"].dim == 48
        assert inpainting["published"] / 1e9 == pytest.approx(51.63, rel=1e-3)
        assert round(inpainting["total"]["parameters"] / 1e6) == 26
        sr = cost(f"realsr-x4-{wording}", measure=False, execute=False)
        assert round(sr["published"] / 1e12, 2) == 0.74
        assert "0.74 T" in cost_table(sr) and "executed here" not in cost_table(sr)
        assert round(100 * sr["of_rrdbnet"]) == 63
        deblurring = cost(f"deblurring-{wording}", measure=False, execute=False)
        assert round(100 * deblurring["of_restormer"], 1) == 78.1


def test_compared_networks_have_their_published_sizes() -> None:
    """RRDBNet: 16,697,987 parameters (its published file), 1.18 T within 0.5 %. Restormer: 26,126,644."""
    rrdbnet, restormer = cost("rrdbnet-x4"), cost("restormer")
    assert rrdbnet["total"]["parameters"] == 16_697_987
    assert rrdbnet["published"] / 1e12 == pytest.approx(1.18, rel=5e-3)
    assert "BebyGAN" in cost_table(rrdbnet)
    assert restormer["total"]["parameters"] == 26_126_644
    assert round(restormer["total"]["mult_adds"] / 1e9, 3) == 154.882
    assert mult_adds_of("LaMa") is None


@pytest.mark.parametrize("name", ["inpainting", "sr-x4", "deblurring"])
def test_diffusion_is_nearly_free(name: str) -> None:
    """The denoiser's four steps cost under 0.01 % of the Mult-Adds."""
    assert cost(name, measure=False)["denoiser_share"] < 1e-4


@pytest.mark.parametrize("tail", ["nearest", "shuffle", "direct"])
def test_count_agrees_with_what_torch_executes(tail: str) -> None:
    """Torch's own counter over a forward pass sees our count, attention's merged projection allowed for."""
    config = ModelConfig.from_dict(TINY.to_dict() | {"tail": tail})
    whole = total(parts_of(config, 32), 4).mult_adds
    merged = 0
    for level, (width, heads, blocks) in enumerate(
        ((4, 1, 1), (8, 1, 1), (16, 2, 1), (32, 2, 1), (16, 2, 1), (8, 1, 1), (8, 1, 2))
    ):
        pixels = 32 * 32 // 4 ** (level if level < 4 else 6 - level)
        # A·V and projection become one product, and heads · c · (c/heads)² to merge them.
        merged += blocks * (width * width // heads * pixels - width * (width // heads) ** 2 * heads)
    assert whole - merged == executed(config, 32, 32)


def test_sizes_are_padded_as_the_network_pads() -> None:
    """A size that is no multiple costs what the padded photo costs."""
    assert total(parts_of(TINY, 30), 4) == total(parts_of(TINY, 32), 4)


def test_measured_part_and_table() -> None:
    """Time and memory are measured where asked; the table names parts, conventions and the paper's figure."""
    result = cost("sr-x4-compact", (32, 32), device="cpu")
    assert result["measured"]["seconds"] > 0
    assert result["measured"]["peak_mib"] > 10
    table = cost_table(result)
    for words in ("decoder level 1", "as published", "executed here", "measured on cpu"):
        assert words in table
    assert "0.74 T" in cost_table(cost("sr-x4", measure=False))


def test_flop_counter_counts_two_per_multiplication() -> None:
    """The convention behind `executed`: torch counts a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        torch.empty(3, 5, device="meta") @ torch.empty(5, 7, device="meta")
    assert counter.get_total_flops() == 2 * 3 * 5 * 7


def test_the_largest_size_is_counted() -> None:
    """Without measuring nothing is allocated."""
    small, large = (cost("sr-x4-compact", (side, side), measure=False) for side in (1_000, 1_000_000))
    assert large["published"] == pytest.approx(1e6 * small["published"], rel=1e-3)


@pytest.mark.parametrize("error", [RuntimeError("[…] can't allocate memory"), MemoryError()])
def test_a_size_that_memory_cannot_hold_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whether that shows before or while the network runs; other errors are not taken for it."""
    with pytest.raises(ConfigError, match="1000000×900000 photo does not fit into memory; give a smaller"):
        cost("sr-x4-compact", (900_000, 1_000_000))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(room, "_inputs", fail)
    with pytest.raises(ConfigError, match="64×32 photo does not fit into memory"):
        cost("sr-x4-compact", (32, 64), execute=False)
    error.args = ("shapes differ",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="shapes differ"):
            cost("sr-x4-compact", (32, 64), execute=False)


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("sr-x5", (64, 64), "no preset or weight file 'sr-x5'; presets: inpainting"),
        ("sr-x4", (0, 64), "size is 0×64"),
        ("sr-x4", (10**12, 64), "size is 1000000000000×64; expected 1×1 to 1000000×1000000"),
    ],
)
def test_wrong_use(model: str, size: tuple[int, int], words: str) -> None:
    """Unknown presets and impossible sizes are one line."""
    with pytest.raises(ConfigError, match=words):
        cost(model, size)
