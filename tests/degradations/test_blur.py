"""Kernels, filtering and sharpening."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from dirformer.degradations.blur import (
    Kernel,
    KernelRange,
    draw_final_sinc,
    draw_kernel,
    filter2d,
    mirror,
    sharpen,
)
from dirformer.ground.errors import ConfigError


def test_kernels_agree_with_the_golden_ones(shared: Path) -> None:
    """All six Gaussian families and the sinc kernels are those of the published pipeline, to 1e-10."""
    golden = np.load(shared / "reference/image_ops.npz")
    parameters = json.loads(str(golden["params_json"]))
    families = {"iso": "gaussian", "aniso": "gaussian", "generalized": "generalised", "plateau": "plateau"}
    for p in parameters["kernels"]:
        family = families[p["kind"].split("_")[0]]
        kernel = Kernel(
            family, p["kernel_size"], p["sigma_x"], p["sigma_y"], float(p["theta_rad"]), p["beta"] or 1.0
        )
        np.testing.assert_allclose(kernel.pixels().numpy(), golden[p["name"]], rtol=0, atol=1e-10)
    for p in parameters["sinc"]:
        kernel = Kernel("sinc", p["kernel_size"], cutoff=p["cutoff_rad"])
        expected = golden[p["name"]]
        np.testing.assert_allclose(kernel.pixels(len(expected)).numpy(), expected, rtol=0, atol=1e-10)


def test_kernels_agree_with_their_closed_forms() -> None:
    """A rotated plateau kernel and a sinc kernel equal the formulas written in NumPy."""
    y, x = np.mgrid[-5:6, -5:6].astype(float)
    angle = 0.7
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    plateau = 1 / (1 + ((u / 2.5) ** 2 + (v / 0.8) ** 2) ** 1.4)
    ours = Kernel("plateau", 11, 2.5, 0.8, angle, 1.4).pixels()
    np.testing.assert_allclose(ours.numpy(), plateau / plateau.sum(), rtol=0, atol=1e-12)
    r = np.hypot(x, y)
    with np.errstate(invalid="ignore"):
        sinc = 1.3 * special.j1(1.3 * r) / (2 * np.pi * r)
    sinc[5, 5] = 1.3**2 / (4 * np.pi)
    np.testing.assert_allclose(
        Kernel("sinc", 11, cutoff=1.3).pixels().numpy(), sinc / sinc.sum(), rtol=0, atol=1e-12
    )


def test_an_even_kernel_is_refused() -> None:
    """A kernel without a middle pixel is an error that names the rule."""
    with pytest.raises(ConfigError, match="odd"):
        Kernel("pulse", 4)


def test_filter_agrees_with_the_golden_one(shared: Path) -> None:
    """One kernel per photo, and one for all, to 5e-6."""
    golden = np.load(shared / "reference/image_ops.npz")
    photos, kernels = (torch.from_numpy(golden[f"filter2d/{name}"]) for name in ("input", "kernels"))
    np.testing.assert_allclose(filter2d(photos, kernels), golden["filter2d/output"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(
        filter2d(photos, kernels[:1]), golden["filter2d/output_single_kernel"], rtol=0, atol=5e-6
    )


@pytest.mark.parametrize(("size", "height", "width"), [(3, 17, 22), (9, 17, 22), (9, 310, 301)])
def test_filter_correlates_with_mirrored_borders(size: int, height: int, width: int) -> None:
    """Summed, by FFT, and by FFT plane by plane: SciPy's correlation, the kernel not flipped."""
    generator = torch.Generator().manual_seed(0)
    photos, kernels = (
        torch.rand(2, 3, height, width, generator=generator),
        torch.rand(2, size, size, generator=generator),
    )
    for photo, kernel, ours in zip(photos, kernels, filter2d(photos, kernels), strict=True):
        for channel, out in zip(photo, ours, strict=True):
            expected = ndimage.correlate(channel.double().numpy(), kernel.double().numpy(), mode="mirror")
            np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-5)


def test_a_photo_smaller_than_the_kernel_is_mirrored_again() -> None:
    """Borders wider than the photo repeat the mirror as NumPy's reflect mode does."""
    photo = torch.rand(1, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = np.pad(photo[0, 0].numpy(), ((10, 7), (10, 12)), mode="reflect")
    np.testing.assert_array_equal(mirror(photo, 10, 7, 12)[0, 0].numpy(), expected)
    assert filter2d(photo, Kernel("gaussian", 21, 2.0, 2.0).pixels()[None]).shape == photo.shape


def test_sharpening_agrees_with_the_golden_one(shared: Path) -> None:
    """USM with the released values and with others, to 1e-5."""
    golden = np.load(shared / "reference/image_ops.npz")
    photos = torch.from_numpy(golden["usm/input"])
    np.testing.assert_allclose(sharpen(photos), golden["usm/output"], rtol=0, atol=1e-5)
    other = sharpen(photos, weight=1.0, threshold=5.0)
    np.testing.assert_allclose(other, golden["usm/output_weight1_threshold5"], rtol=0, atol=1e-5)


def test_sharpening_follows_its_definition() -> None:
    """USM equals the definition computed with SciPy's separable Gaussian in float64."""
    photo = torch.rand(1, 1, 60, 56, generator=torch.Generator().manual_seed(3))
    plane = photo[0, 0].double().numpy()

    def blur(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 8.0, mode="mirror", radius=25)

    detail = plane - blur(plane)
    mask = blur((np.abs(detail) * 255 > 10).astype(float))
    expected = mask * np.clip(plane + 0.5 * detail, 0, 1) + (1 - mask) * plane
    np.testing.assert_allclose(sharpen(photo)[0, 0].numpy(), expected, rtol=0, atol=1e-5)


def test_kernels_are_drawn_in_the_released_proportions() -> None:
    """Of 4,000 kernels: a tenth sinc, families and sizes as published, all parameters in range."""
    generator = torch.Generator().manual_seed(0)
    kernels = [draw_kernel(KernelRange(), generator) for _ in range(4000)]
    assert abs(np.mean([k.family == "sinc" for k in kernels]) - 0.1) < 0.02
    blurs = [k for k in kernels if k.family != "sinc"]
    rotated = np.array([k.theta != 0 for k in blurs])
    for family, plain, turned in (
        ("gaussian", 0.45, 0.25),
        ("generalised", 0.12, 0.03),
        ("plateau", 0.12, 0.03),
    ):
        of_family = np.array([k.family == family for k in blurs])
        assert abs((of_family & ~rotated).mean() - plain) < 0.03
        assert abs((of_family & rotated).mean() - turned) < 0.03
    assert {k.size for k in kernels} == set(range(7, 22, 2))
    assert all(0.2 <= k.sigma_x <= 3 and 0.2 <= k.sigma_y <= 3 for k in blurs)
    assert all(
        k.cutoff >= (math.pi / 3 if k.size < 13 else math.pi / 5) for k in kernels if k.family == "sinc"
    )
    pulses = [draw_final_sinc(0.8, generator).family == "pulse" for _ in range(2000)]
    assert abs(np.mean(pulses) - 0.2) < 0.03
