"""Configs say what is wrong with them; presets have the published sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dirformer.ground.errors import ConfigError
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import STAGES, DiffIRS1, DiffIRS2
from dirformer.networks.presets import PRESETS, preset

# Stage 1, stage 2 (the authors' classes, counted; the paper's widths from the release's modules).
PARAMETERS = {
    "inpainting": (26_232_746, 26_402_474),
    "inpainting-big": (49_313_194, 49_482_922),
    "sr-x4": (24_801_478, 24_971_206),
    "realsr-x4": (24_801_478, 24_971_206),
    "sr-x2": (24_811_846, 24_981_574),
    "realsr-x2": (24_811_846, 24_981_574),
    "realsr-x1": (24_853_318, 25_023_046),
    "deblurring": (26_742_206, 26_911_934),
    "inpainting-paper": (None, 26_357_506),
    "sr-x4-paper": (None, 22_713_294),
    "realsr-x4-paper": (None, 22_713_294),
    "deblurring-paper": (26_742_206, 26_911_934),
}


def parameters(config: ModelConfig, stage: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in STAGES[stage](config).parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_parameter_counts(name: str) -> None:
    """Released presets, and those at the paper's widths, have the counts of the authors' networks."""
    for stage, expected in zip((1, 2), PARAMETERS[name], strict=True):
        assert expected is None or parameters(PRESETS[name], stage) == expected


@pytest.mark.parametrize("name", [n for n in PRESETS if n.endswith("compact")])
def test_compact_presets_are_compact(name: str) -> None:
    """A compact network has at most 3 million parameters."""
    assert parameters(PRESETS[name], 2) <= 3_000_000


@pytest.mark.parametrize("name", PRESETS)
def test_configs_survive_json(name: str) -> None:
    """A config written to JSON and read back is the same config."""
    assert ModelConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 47}, "dim is 47; expected even"),
        ({"heads": (1, 2, 4, 7)}, "heads is"),
        ({"blocks": (1, 1, 1)}, "four numbers"),
        ({"tail": "shuffle"}, "tail is 'shuffle'; expected a tail that enlarges"),
        ({"beta_end": 1.0}, "between 0 and 1"),
        ({"timesteps": -1}, "at least 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(fields: dict, message: str) -> None:
    """The error names the field, the value received and the rule."""
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        replace(PRESETS["deblurring"], **fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "sr", "dims": 3}, "no field 'dims'; the nearest valid one is 'dim'"),
        ({"task": "sr", "dim": "48"}, "dim is '48'; expected int"),
        ({"task": "sr", "blocks": [1, 2, 3.5, 4]}, "expected tuple"),
        ({"task": "sr", "norm": "batch"}, "norm is 'batch'; expected one of with_bias, bias_free"),
        ({"dim": 48}, "has no task"),
    ],
)
def test_values_from_files_are_checked(values: dict, message: str) -> None:
    """Unknown fields and wrong types in a file are refused in one line."""
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_an_unknown_preset_is_answered_with_the_list() -> None:
    """The error lists the presets there are."""
    with pytest.raises(ConfigError, match="there are: inpainting, "):
        preset("sr-x8")


def test_size_multiples() -> None:
    """LQ sides must be multiples of 8, for ×2 of 16, for ×1 of 32."""
    assert [PRESETS[n].multiple for n in ("sr-x4", "sr-x2", "realsr-x1", "deblurring", "inpainting")] == [
        8,
        16,
        32,
        8,
        8,
    ]


SMALL = replace(
    PRESETS["deblurring"],
    dim=4,
    blocks=(1, 1, 1, 1),
    refinement_blocks=1,
    heads=(1, 1, 2, 4),
    cpen_blocks=1,
    cpen_dim=4,
    prior_dim=8,
)
VARIANTS = {
    "released": {},
    "paper attention": {"qk_norm": False, "softmax_axis": "query", "temperature": "divide"},
    "paper denoiser": {"denoiser_order": "noise_first", "time": "index", "target": "epsilon"},
    "linear end of the denoiser": {"target": "epsilon", "denoiser_output": "linear"},
    "linear schedule": {"beta_schedule": "linear"},
    "reverse noise": {"reverse_noise": True},
    "no diffusion": {"timesteps": 0},
    "one step": {"timesteps": 1, "beta_start": 0.9974, "beta_end": 0.9974},
    "many steps": {"timesteps": 32},
    "gt first": {"cpen_order": "gt_lq"},
    "bias": {"bias": True, "norm": "bias_free"},
    "inpainting": {"task": "inpainting", "skip": "none"},
    "x4 shuffle": {"task": "sr", "scale": 4, "tail": "shuffle", "cpen_unshuffle": 1},
    "x4 nearest": {"task": "sr", "scale": 4, "tail": "nearest", "cpen_unshuffle": 1},
    "x4 direct": {"task": "sr", "scale": 4, "tail": "direct", "skip": "bicubic", "cpen_unshuffle": 2},
    "x3 direct": {"task": "sr", "scale": 3, "tail": "direct", "cpen_unshuffle": 1},
    "x2": {"task": "realsr", "scale": 2, "unshuffle": 2, "tail": "shuffle", "cpen_unshuffle": 2},
    "x1": {"task": "realsr", "unshuffle": 4, "tail": "shuffle", "cpen_unshuffle": 4},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_restores(name: str) -> None:
    """Each choice between paper and release builds, has the right output size, and every part learns."""
    torch.manual_seed(0)
    config = replace(SMALL, **VARIANTS[name])
    # Two times the multiple, so that the deepest level has more than one pixel.
    side = 2 * config.multiple
    lq, gt = (
        torch.rand(2, config.in_channels, side, side),
        torch.rand(2, 3, side * config.scale, side * config.scale),
    )
    stage1, stage2 = DiffIRS1(config), DiffIRS2(config)
    assert stage1(lq, gt).shape == gt.shape
    stage2.start_from(stage1)
    noise = torch.randn(stage2.noise_shape)[:, None].expand(-1, 2, -1)
    restored, estimates = stage2.restore_and_estimate(lq, stage1.cpen(lq, gt), noise)
    assert restored.shape == gt.shape
    assert len(estimates) == max(1, config.timesteps)
    (restored.square().mean() + estimates[-1].square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stage2.parameters())
    assert stage2(lq, noise).shape == gt.shape


def test_a_constant_condition_is_one_vector_for_all_photos() -> None:
    """The control without a photo: every photo gets the same IPR, of every size, and it can be learnt."""
    config = replace(PRESETS["sr-x4-compact"], timesteps=0, condition="constant", cpen_dim=4, prior_dim=8)
    torch.manual_seed(0)
    cpen = DiffIRS2(config).cpen
    one, other = cpen(torch.rand(2, 3, 16, 16)), cpen(torch.rand(1, 3, 24, 40))
    torch.testing.assert_close(torch.cat([one, other]), one[:1].expand(3, -1))
    one.sum().backward()
    assert all(layer.bias.grad is not None and layer.bias.grad.abs().sum() > 0 for layer in cpen.mlp)
    with pytest.raises(ConfigError, match="condition is 'constant'; expected photo unless timesteps is 0"):
        replace(config, timesteps=4)
