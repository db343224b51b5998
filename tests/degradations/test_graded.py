"""Damage of every strength: its shares, its continuum, and where it is computed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dirformer.data.manifest import FILE, read_manifest
from dirformer.data.testsets import degrade_photos
from dirformer.degradations import light
from dirformer.degradations.graded import GROUPS, LEVELS, SINGLE, Draws, Graded, graded
from dirformer.degradations.light import Damage
from dirformer.degradations.second_order import SecondOrder
from dirformer.degradations.table import DEGRADATIONS
from dirformer.ground.device import seeded_generator
from helpers import picture

COUNT = 4000
STRENGTH: dict[type[Damage], tuple[str, float, float]] = {
    light.GaussianNoise: ("sigma", 0, 50),
    light.SensorNoise: ("shot", 0, 45),
    light.ChromaNoise: ("sigma", 0, 20),
    light.Jpeg: ("quality", 10, 98),
    light.Webp: ("quality", 10, 98),
    light.Blur: ("sigma_x", 0.2, 1.6),
    light.Sharpening: ("amount", 0, 2),
    light.Resizing: ("factor", 0.4, 2),
}


@lru_cache(maxsize=2)
def _draws(scale: int) -> list[Draws]:
    return graded(scale).draw([seeded_generator(5, n) for n in range(COUNT)], (192, 192))


def _photo(side: int = 96, seed: int = 0) -> torch.Tensor:
    pixels = np.array(picture(side, side, seed=seed))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _of_level(level: str, scale: int = 1) -> Draws:
    return next(d for d in _draws(scale) if d.level == level)


@pytest.mark.parametrize("scale", [1, 4])
def test_levels_have_their_shares(scale: int) -> None:
    """Of 4,000 photos each level gets its share to within four standard deviations; one in eight is clean."""
    shares, counts = graded(scale).shares, Counter(d.level for d in _draws(scale))
    for level, share in zip(LEVELS, shares, strict=True):
        deviation = (COUNT * share * (1 - share)) ** 0.5
        assert abs(counts[level] - COUNT * share) < 4 * deviation
    assert shares[0] >= 1 / 8


def test_single_kinds_have_their_shares() -> None:
    """Each kind of damage occurs alone as often as its weight says."""
    kinds = Counter(type(d.damages[0]) for d in _draws(1) if d.level == "single")
    total = sum(kinds.values())
    for kind, weight in SINGLE.items():
        assert abs(kinds[kind] - total * weight) < 4 * (total * weight * (1 - weight)) ** 0.5


@pytest.mark.parametrize("kind", list(STRENGTH), ids=lambda kind: kind.__name__)
def test_each_kind_alone_occurs_at_every_strength(kind: type[Damage]) -> None:
    """In 4,000 photos no tenth of a kind's range is empty, and nothing lies outside."""
    name, low, high = STRENGTH[kind]
    alone = [d.damages[0] for d in _draws(1) if d.level == "single" and type(d.damages[0]) is kind]
    values = [getattr(damage, name) for damage in alone]
    assert low <= min(values) and max(values) <= high
    assert np.histogram(values, bins=10, range=(low, high))[0].min() > 0


def test_both_kinds_of_chroma_and_both_kinds_of_noise_occur() -> None:
    """JPEG alone is 4:2:0 or 4:4:4, on the grid or off it; Gaussian noise alone is grey or coloured."""
    alone = [d.damages[0] for d in _draws(1) if d.level == "single"]
    files = [damage for damage in alone if isinstance(damage, light.Jpeg)]
    assert 0.55 < np.mean([damage.chroma == "4:2:0" for damage in files]) < 0.75
    assert 0.40 < np.mean([damage.offset == (0, 0) for damage in files]) < 0.60
    noises = [damage for damage in alone if isinstance(damage, light.GaussianNoise)]
    assert 0.17 < np.mean([damage.grey for damage in noises]) < 0.33


def test_combinations_are_in_natural_order() -> None:
    """Two or three damages of different groups: lens, sensor, editor, file; blur before JPEG is common."""
    place = {kind: number for number, (_, kinds) in enumerate(GROUPS) for kind in kinds}
    combined = [[place[type(x)] for x in d.damages] for d in _draws(1) if d.level == "combined"]
    assert all(places == sorted(set(places)) for places in combined)
    assert {len(places) for places in combined} == {2, 3}
    assert np.mean([0 in places and 3 in places for places in combined]) > 0.3


def test_strengths_of_combinations_reach_from_weak_to_strong() -> None:
    """Noise in combinations fills its range: below 2 grey levels as well as above 20, nothing missing."""
    noises = [x for d in _draws(1) if d.level == "combined" for x in d.damages]
    sigmas = [x.sigma for x in noises if isinstance(x, light.GaussianNoise)]
    assert np.histogram(sigmas, bins=12, range=(0, 30))[0].min() > 0


def test_an_untouched_photo_is_untouched() -> None:
    """At scale 1 not one bit differs; at scale 4 it is the reduction alone, and nothing random."""
    photo = _photo()[None]
    assert torch.equal(graded(1).apply(photo, [_of_level("untouched")]), photo)
    draws = _of_level("untouched", 4)
    assert draws.damages == () and draws.reduction is not None
    small = light.resample(photo[0], (24, 24), draws.reduction.resampler, draws.reduction.sigma)
    assert (graded(4).apply(photo, [draws])[0] - small).abs().max() <= 0.501 / 255


def test_every_resampler_makes_small_photos() -> None:
    """All of them occur, keep the mean of a photo, and differ from one another."""
    used = {d.reduction.resampler for d in _draws(4) if d.reduction is not None}
    assert used == set(light.REDUCERS)
    photo = _photo()
    small = [light.resample(photo, (24, 24), how) for how in light.REDUCERS]
    assert all(abs(float(x.mean() - photo.mean())) < 0.01 for x in small)
    assert len({x.numpy().tobytes() for x in small}) == len(small)


def test_heavy_photos_are_the_second_order_process() -> None:
    """Behind the level, draws and results are those of `SecondOrder`."""
    draws, photo = _of_level("heavy", 4), _photo()[None]
    assert torch.equal(graded(4).apply(photo, [draws]), SecondOrder(4).apply(photo, [draws.heavy]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_results_are_8_bit_and_inside_has_the_size_asked_for(scale: int, level: str) -> None:
    """Every level at every scale: `b 3 h w` on the 8-bit grid, and the margin is gone inside."""
    degrade = graded(scale)
    side = (2 * degrade.margin + 16) * scale
    drawn = degrade.draw([seeded_generator(2, n) for n in range(60)], (side, side))
    draws = [d for d in drawn if d.level == level][:2]
    photos = torch.stack([_photo(side, n) for n in range(len(draws))])
    whole, inside = degrade.apply(photos, draws), degrade.apply_inside(photos, draws)
    assert whole.shape[-1] == side // scale and inside.shape[-2:] == (16, 16)
    for lq in (whole, inside):
        assert torch.equal((lq * 255).round() / 255, lq) and 0 <= lq.min() <= lq.max() <= 1


def test_what_lies_outside_the_crop_hardly_matters() -> None:
    """Without noise, a crop's inside is what the whole photo's would be there: to two grey levels."""
    degrade, photo = graded(1), _photo(192)
    quiet = (light.Blur(1.2, 0.6, 0.5), light.Sharpening(1.0, 1.0), light.Jpeg(60, "4:2:0", (3, 5)))
    draws = Draws("combined", None, quiet, None)
    whole = degrade.apply(photo[None], [draws])
    inside = degrade.apply_inside(photo[None, :, 32:, 32:], [draws])
    assert (whole[..., 64:-32, 64:-32] - inside).abs().max() <= 2 / 255


def test_a_photo_does_not_depend_on_its_batch() -> None:
    """Bit for bit: a photo alone is the photo among others, whatever happens to them."""
    degrade, photos = graded(1), torch.stack([_photo(96, n) for n in range(12)])
    generators = [seeded_generator(9, n) for n in range(12)]
    together = degrade.inside(photos, generators)
    for n in range(12):
        assert torch.equal(together[n], degrade.inside(photos[n : n + 1], [seeded_generator(9, n)])[0])


def test_noise_has_the_strength_drawn() -> None:
    """On mid grey, measured sigmas are those of the draws to 3 %."""
    grey = torch.full((3, 128, 128), 0.5)
    gaussian = light.GaussianNoise(12.0, grey=False, seed=3)(grey) - grey
    sensor = light.SensorNoise(16.0, 5.0, 4)(grey) - grey
    assert float(gaussian.std() * 255) == pytest.approx(12.0, rel=0.03)
    assert float(sensor.std() * 255) == pytest.approx((5**2 + 16**2 / 2) ** 0.5, rel=0.03)
    blotches = light.ChromaNoise(6.0, 0.0, 1.5, 5)(grey) - grey
    red = 1.402 * 6.0  # R = Y + 1.402 Cr
    assert float(blotches[0].std() * 255) == pytest.approx(red, rel=0.1)
    neighbours = torch.corrcoef(torch.stack([blotches[0, :, 1:].flatten(), blotches[0, :, :-1].flatten()]))
    assert neighbours[0, 1] > 0.8


def test_severity_makes_every_damage_worse() -> None:
    """The mean square error of each kind grows from severity 0.2 over 0.6 to 1."""
    photo = _photo(128)
    for kind in STRENGTH:
        damages = [kind.drawn(severity, seeded_generator(1)) for severity in (0.2, 0.6, 1.0)]
        if kind is light.Resizing:
            damages = [light.Resizing(factor, "bicubic", "bicubic") for factor in (0.9, 0.6, 0.4)]
        errors = [float((damage(photo) - photo).square().mean()) for damage in damages]
        assert errors[0] < errors[1] < errors[2]


def test_a_manifest_names_what_was_done(tmp_path: Path) -> None:
    """Each line has the level, and every damage with its name and its numbers; draws are JSON."""
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(8):
        picture(40, 40, seed=number).save(source / f"p{number}.png")
    assert not [
        m.error for m in degrade_photos(source, tmp_path / "out", "realsr-graded", scale=1) if m.error
    ]
    settings, records = read_manifest(tmp_path / "out" / FILE)
    assert settings["settings"]["shares"] == list(Graded(1).shares)
    names = {record["name"]: record["parameters"] for record in records}
    assert {p["level"] for p in names.values()} <= set(LEVELS)
    assert all("kind" in damage for p in names.values() for damage in p["damages"])
    text = json.dumps(asdict(Draws("single", None, (light.Jpeg(70, "4:2:0", (0, 0)),), None)))
    assert '"quality": 70, "chroma": "4:2:0", "offset": [0, 0], "kind": "jpeg"' in text


def test_it_is_registered_for_all_scales() -> None:
    """Recipes and the command line find it by name."""
    assert DEGRADATIONS["realsr-graded"].scales == (4, 2, 1)
