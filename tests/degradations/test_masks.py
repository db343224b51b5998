"""LaMa's masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from dirformer.degradations.mask_settings import MASKS, MaskSettings, mask_settings
from dirformer.degradations.masks import draw_mask
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError

NAMES = {f"random_{kind}_{size}": (kind, size) for kind, size in MASKS if kind != "training"}


def _statistics(settings: MaskSettings, count: int) -> tuple[np.ndarray, float]:
    everything = MaskSettings(
        settings.size, settings.strokes, settings.boxes, settings.box_weight, largest=None
    )
    fractions, components = [], []
    for number in range(count):
        mask = draw_mask(everything, seeded_generator(7, number))[0].numpy()
        fractions.append(mask.mean())
        if number % 2 == 0:
            components.append(ndimage.label(mask, np.ones((3, 3)))[1])
    return np.array(fractions), float(np.mean(components))


# Quoted from runs of the published generators, 8,000 masks each: mean hole, median, components.
QUOTED = {
    ("thin", 256): (0.293, 6.3),
    ("medium", 256): (0.242, 2.6),
    ("thick", 256): (0.397, 1.36),
    ("training", 256): (0.351, 1.35),
}


@pytest.mark.parametrize("name", list(QUOTED))
def test_hole_fraction_and_components_are_the_published_ones(name: tuple[str, int]) -> None:
    """Over 300 masks the mean hole is within 0.03, the number of pieces within 20 %."""
    fractions, components = _statistics(MASKS[name], 300)
    mean, pieces = QUOTED[name]
    assert fractions.mean() == pytest.approx(mean, abs=0.03)
    assert components == pytest.approx(pieces, rel=0.2)


def _golden(shared: Path) -> dict[str, tuple[tuple[str, int], dict]]:
    settings = json.loads((shared / "reference/inpainting_masks.json").read_text())["settings"]
    return {name: (NAMES.get(name, ("training", 256)), values) for name, values in settings.items()}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_statistics_agree_with_the_golden_ones(shared: Path) -> None:
    """4,000 masks per setting: mean hole within 0.012, quantiles within 0.05, components within 10 %."""
    done = {}
    for name, (key, values) in _golden(shared).items():
        fractions, components = (
            done.setdefault(key, _statistics(MASKS[key], 4000)) if key not in done else done[key]
        )
        assert fractions.mean() == pytest.approx(values["pooled_mean_hole_fraction"], abs=0.012), name
        assert components == pytest.approx(values["pooled_connected_components_8_mean"], rel=0.1), name
        for run in values["runs"].values():
            for quantile in (5, 25, 50, 75, 95):
                expected = run["hole_fraction"][f"q{quantile:02}"]
                assert np.quantile(fractions, quantile / 100) == pytest.approx(expected, abs=0.05), name


def test_settings_are_the_golden_ones(shared: Path) -> None:
    """Every published setting has the parameters that the golden statistics were made with."""
    for name, (key, values) in _golden(shared).items():
        ours, theirs = MASKS[key], values["generator_kwargs"]
        strokes = theirs["irregular_kwargs"]
        assert ours.strokes.times == (strokes.get("min_times", 0), strokes["max_times"]), name
        assert (ours.strokes.width, ours.strokes.length) == (strokes["max_width"], strokes["max_len"]), name
        assert ours.strokes.angle == strokes["max_angle"], name
        assert ours.box_weight == theirs["box_proba"] / theirs["irregular_proba"], name
        if ours.boxes is not None:
            box = theirs["box_kwargs"]
            assert ours.boxes.side == (box["bbox_min_size"], box["bbox_max_size"]), name
            assert ours.boxes.times == (box["min_times"], box["max_times"]), name
            assert ours.boxes.margin == box["margin"], name


def test_test_masks_are_at_most_half_hole() -> None:
    """Rejection holds, values are 0 and 1, and a seed determines the mask."""
    for seed in range(40):
        mask = draw_mask(mask_settings("thick", 256), seeded_generator(seed))
        assert mask.shape == (1, 256, 256) and float(mask.mean()) <= 0.5
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mask, draw_mask(mask_settings("thick", 256), seeded_generator(seed)))


def test_a_mask_has_the_size_asked_for() -> None:
    """Other sizes than the settings' own are drawn directly, not resized."""
    assert draw_mask(mask_settings("thin", 256), seeded_generator(0), (300, 200)).shape == (1, 300, 200)


def test_unknown_settings_are_named() -> None:
    """The error lists what there is."""
    with pytest.raises(ConfigError, match="thin 256"):
        mask_settings("huge", 256)
