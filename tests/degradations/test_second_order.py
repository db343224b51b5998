"""The second-order degradation and the training pairs made with it."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from dirformer.degradations.blur import sharpen
from dirformer.degradations.pairs import PairMaker, PairPool
from dirformer.degradations.second_order import SecondOrder
from dirformer.degradations.simple import Bicubic
from dirformer.degradations.table import DEGRADATIONS, degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import ConfigError


def _photos(batch: int, height: int = 72, width: int = 96) -> torch.Tensor:
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
def test_every_degradation_keeps_its_promises(kind: str) -> None:
    """Size, range and determinism under a generator hold for every kind at every scale; input is kept."""
    for scale in DEGRADATIONS[kind].scales:
        degrade, photos = degradation(kind, scale), _photos(2)
        lq = degrade(photos, torch.Generator().manual_seed(3))
        assert lq.shape == (2, 3, 72 // scale, 96 // scale)
        assert 0 <= float(lq.min()) <= float(lq.max()) <= 1
        assert torch.equal(lq, degrade(photos, torch.Generator().manual_seed(3)))
        assert torch.equal(photos, _photos(2))
        if kind != "bicubic":
            assert not torch.equal(lq, degrade(photos, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("kind", ["realsr", "motion", "noise", "jpeg"])
def test_a_photos_result_does_not_depend_on_its_batch(kind: str) -> None:
    """With a generator per photo, a photo alone comes out as in a batch of three."""
    degrade, photos = degradation(kind, DEGRADATIONS[kind].scales[0]), _photos(3)
    together = degrade(photos, [seeded_generator(0, i) for i in range(3)])
    alone = degrade(photos[2:], [seeded_generator(0, 2)])
    assert (together[2:] - alone).abs().max() <= 1 / 255


def test_unknown_kinds_and_scales_are_named() -> None:
    """The error lists what there is."""
    with pytest.raises(ConfigError, match="realsr"):
        degradation("rain", 4)
    with pytest.raises(ConfigError, match="no scale 3; expected 4 or 2 or 1"):
        degradation("realsr", 3)


def test_batch_draws_share_the_route_and_nothing_else() -> None:
    """As released: factors, modes, noise kind and order are the batch's; kernels and levels the photo's."""
    draws = SecondOrder(4, draws="batch").draw([seeded_generator(0, i) for i in range(6)], (64, 64))
    assert len({d.route for d in draws}) == 1
    assert len({d.first.kernel for d in draws}) == 6
    assert len({d.first.quality for d in draws}) == 6
    assert (
        len({d.route for d in SecondOrder(4).draw([seeded_generator(0, i) for i in range(6)], (64, 64))}) == 6
    )


def test_draws_have_the_published_proportions() -> None:
    """Over 1,500 photos: resize directions, noise kinds, second blur, order, grey noise, ranges."""
    draws = SecondOrder(4).draw([seeded_generator(1, i) for i in range(1500)], (400, 400))

    def share(of: list[bool]) -> float:
        return sum(of) / len(draws)

    first, second = [d.route.first for d in draws], [d.route.second for d in draws]
    assert all(p.blurs for p in first)
    assert share([p.blurs for p in second]) == pytest.approx(0.8, abs=0.04)
    for passes, up, down in ((first, 0.2, 0.7), (second, 0.3, 0.4)):
        assert share([p.factor > 1 for p in passes]) == pytest.approx(up, abs=0.04)
        assert share([p.factor < 1 for p in passes]) == pytest.approx(down, abs=0.04)
        assert share([p.noise == "gaussian" for p in passes]) == pytest.approx(0.5, abs=0.04)
        assert share([p.mode == "area" for p in passes]) == pytest.approx(1 / 3, abs=0.04)
    assert min(p.factor for p in first) >= 0.15 and max(p.factor for p in first) <= 1.5
    assert min(p.factor for p in second) >= 0.3 and max(p.factor for p in second) <= 1.2
    assert share([d.route.jpeg_last for d in draws]) == pytest.approx(0.5, abs=0.04)
    assert share([d.first.noise.grey for d in draws]) == pytest.approx(0.4, abs=0.04)
    strengths = [d.second.noise.strength for d in draws if d.route.second.noise == "poisson"]
    assert min(strengths) >= 0.05 and 2.4 < max(strengths) <= 2.5
    assert all(30 <= d.first.quality <= 95 for d in draws)
    assert max(d.second.kernel.sigma_x for d in draws) <= 1.5


def test_draws_are_plain_values() -> None:
    """What was drawn goes into a manifest as JSON."""
    for kind in DEGRADATIONS:
        degrade = degradation(kind, DEGRADATIONS[kind].scales[0])
        once, again = (
            [json.dumps(asdict(d)) for d in degrade.draw([seeded_generator(0)], (64, 64))] for _ in "12"
        )
        assert once == again


def test_pairs_are_aligned_crops() -> None:
    """LQ and GT show the same place; per-photo places differ, a batch's are common."""
    photos = _photos(4, 128, 128)
    generators = [seeded_generator(0, i) for i in range(4)]
    places = {}
    for draws in ("sample", "batch"):
        lq, gt = PairMaker(Bicubic(2), patch=24, draws=draws)(
            photos, [seeded_generator(0, i) for i in range(4)]
        )
        assert lq.shape == (4, 3, 24, 24) and gt.shape == (4, 3, 48, 48)
        inner = (lq - torch.nn.functional.avg_pool2d(gt, 2))[..., 4:-4, 4:-4]
        assert inner.abs().max() < 0.03
        places[draws] = [
            next(
                (y, x)
                for y in range(0, 81, 2)
                for x in range(0, 81, 2)
                if torch.equal(gt[i], photos[i, :, y : y + 48, x : x + 48])
            )
            for i in range(4)
        ]
    assert len(set(places["batch"])) == 1 < len(set(places["sample"]))
    with pytest.raises(ConfigError, match="patches need 100"):
        PairMaker(Bicubic(4), patch=100)(photos, generators)


def test_v2_degrades_sharpened_photos() -> None:
    """V2's LQ is made of the sharpened photo; its GT stays plain."""
    photos, generators = _photos(1, 64, 64), [seeded_generator(0)]
    lq, gt = PairMaker(Bicubic(4), patch=16, sharpen_input=True)(photos, generators)
    expected = Bicubic(4)(sharpen(photos), generators)
    assert torch.equal(lq, expected) and torch.equal(gt, photos)


def test_pool_loses_and_doubles_nothing() -> None:
    """All pairs that went in come out or are held, once each, together with their partner; state restores."""
    pool, out, steps = PairPool(12, batch=3), [], 30
    for step in range(steps):
        lq = torch.arange(3 * step, 3 * step + 3).float()[:, None, None, None].expand(3, 3, 2, 2)
        gt = -lq.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if step == 20:
            copy = PairPool(12, batch=3)
            copy.load_state_dict(pool.state_dict())
            pool = copy
        given_lq, given_gt = pool.swap(lq, gt, seeded_generator(0, step))
        assert torch.equal(given_lq[:, 0, 0, 0], -given_gt[:, 0, 0, 0])
        if step >= 4:
            out += given_lq[:, 0, 0, 0].tolist()
    held = [float(pair[0][0, 0, 0]) for pair in pool.pairs]
    assert sorted(out + held) == [float(n) for n in range(3 * steps)]
    with pytest.raises(ConfigError, match="multiple"):
        PairPool(10, batch=3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", list(DEGRADATIONS))
def test_cpu_and_gpu_agree(kind: str) -> None:
    """With the same generators photos come out alike, to 1e-3 RMS.

    Rounding decides a few pixels otherwise: a value on the border of two 8-bit levels, a JPEG coefficient.
    """
    degrade, photos = degradation(kind, DEGRADATIONS[kind].scales[0]), _photos(4)
    on_cpu = degrade(photos, [seeded_generator(0, i) for i in range(4)])
    on_gpu = degrade(photos.cuda(), [seeded_generator(0, i) for i in range(4)]).cpu()
    assert float((on_cpu - on_gpu).square().mean().sqrt()) < 1e-3
