"""Noise and its Poisson quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dirformer.degradations.noise import Noise, add_noise, poisson_quantile, shot_noise


@pytest.mark.parametrize("mean", [0.0, 0.4, 3.0, 7.9, 8.1, 40.0, 255.0])
def test_poisson_quantiles_are_scipys(mean: float) -> None:
    """At evenly spaced probabilities counts are SciPy's quantiles, but for one in 500 that is one off."""
    normal = torch.from_numpy(stats.norm.ppf(np.linspace(1e-5, 1 - 1e-5, 20001))).float()
    ours = poisson_quantile(torch.full_like(normal, mean), normal).numpy()
    theirs = stats.poisson.ppf(stats.norm.cdf(normal.double().numpy()), mean)
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(ours != theirs) < 2e-3


def test_shot_noise_has_the_mean_and_variance_of_counts() -> None:
    """On a photo of two grey levels white is 2 counts, so noise at level v has mean 0 and variance v/2."""
    photo = torch.full((3, 400, 400), 102 / 255)
    photo[:, :, :200] = 204 / 255
    noise = shot_noise(photo, torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)))
    for part, level in ((noise[..., 200:], 0.4), (noise[..., :200], 0.8)):
        assert abs(float(part.mean())) < 0.005
        assert float(part.var()) == pytest.approx(level / 2, rel=0.02)


def test_noise_has_its_level_and_colour() -> None:
    """Gaussian noise has the sigma asked for; grey noise is equal in all channels; values stay in [0, 1]."""
    photos = torch.full((3, 3, 128, 128), 0.5)
    noisy = add_noise(
        photos,
        [
            Noise("gaussian", 20.0, grey=False, seed=1),
            Noise("gaussian", 20.0, grey=True, seed=2),
            Noise("poisson", 3.0, grey=True, seed=3),
        ],
    )
    assert float((noisy[:2] - 0.5).std() * 255) == pytest.approx(20, rel=0.03)
    assert not torch.equal(noisy[0, 0], noisy[0, 1])
    assert torch.equal(noisy[1, 0], noisy[1, 1])
    assert torch.equal(noisy[2, 0], noisy[2, 2])
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


def test_noise_is_determined_by_its_seed() -> None:
    """The same seed gives the same noise, whatever stands before it in the batch."""
    photos = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    first, second = Noise("poisson", 1.0, grey=False, seed=5), Noise("gaussian", 9.0, grey=False, seed=6)
    together = add_noise(photos, [first, second])
    assert torch.equal(together[1], add_noise(photos[1:], [second])[0])
