"""PSNR and SSIM: every variant equals the numbers of the programs the field uses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from dirformer.ground.errors import PhotoError
from dirformer.metrics.alignment import psnr_aligned, psnr_matched, psnr_shifted, ssim_aligned
from dirformer.metrics.psnr_ssim import _scored, psnr, rgb_to_y, ssim, ssim_uniform, ssim_volume
from dirformer.metrics.variants import VARIANTS, variant_scores, variants_table

PAIRS = (
    "astronaut_noise15",
    "astronaut_blur1p6",
    "coffee_jpeg40",
    "coffee_bicubic_x4",
    "cat_motion9",
    "cat_noise25",
    "rocket_offset2",
    "camera_noise20",
    "camera_jpeg20",
    "cat_identical",
)


def photo(values: np.ndarray) -> Tensor:
    if values.ndim == 2:
        values = values[..., None]
    return torch.from_numpy(values.copy()).permute(2, 0, 1).double() / 255


def number(value: float | None) -> float:
    return math.inf if value is None else value


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict:
    return json.loads((shared / "reference" / "metrics.json").read_text())["pairs"]


@pytest.fixture(scope="session")
def arrays(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "reference" / "metrics_pairs.npz"))


@pytest.mark.parametrize("name", PAIRS)
def test_every_reference_figure(golden: dict, arrays: dict[str, np.ndarray], name: str) -> None:
    """BasicSR, scikit-image, toolbox and Restormer figures of the pair, at their published tolerances."""
    expected = golden[name]
    gt, result = photo(arrays[f"{name}/reference"]), photo(arrays[f"{name}/degraded"])

    def close(key: str, metric: Callable[..., float], tolerance: float, *args: Tensor) -> None:
        assert number(expected[key]) == pytest.approx(metric(*(args or (result, gt))), abs=tolerance), key

    for key, values in expected["basicsr"].items():
        border, channel = int(key[4]), key.split("_")[1]
        pair = (rgb_to_y(result), rgb_to_y(gt)) if channel == "y" else (result, gt)
        assert number(values["psnr"]) == pytest.approx(
            psnr(*pair, border), abs=1e-4 if channel == "y" else 1e-6
        )
        assert values["ssim"] == pytest.approx(ssim(*pair, border), abs=1e-6 if channel == "y" else 1e-7)
    close("ssim_gaussian_valid_independent", ssim, 1e-7)
    close("ssim_gaussian_replicate_2d_mean", lambda *p: ssim(*p, edges="replicate"), 1e-7)
    close("ssim_skimage_gaussian", ssim, 1e-7)
    close("ssim_skimage_default_uniform7", ssim_uniform, 1e-7)
    close("psnr_full_image_peak255", psnr, 1e-6)
    torch_form = expected["basicsr_torch"]
    assert torch_form["crop0_psnr"] == pytest.approx(psnr(result, gt, floor=1e-8), abs=1e-4)
    assert torch_form["crop0_ssim"] == pytest.approx(ssim(result, gt), abs=1e-6)
    if len(gt) == 3:
        luma = rgb_to_y(result), rgb_to_y(gt)
        if "ssim_gaussian_valid_y_independent" in expected:
            close("ssim_gaussian_valid_y_independent", ssim, 1e-7, *luma)
            close("ssim_gaussian_replicate_2d_y", lambda *p: ssim(*p, edges="replicate"), 1e-7, *luma)
        close("ssim_matlab_volume_3d_independent", ssim_volume, 1e-7)
        close("ssim_restormer_3d", ssim_volume, 2e-5)


def test_twenty_random_pairs_equal_scikit_image() -> None:
    """PSNR to 1e-6 dB and SSIM to 1e-7, on sizes and noise drawn at random."""
    generator = np.random.default_rng(20)
    for _ in range(20):
        height, width = generator.integers(12, 60, 2)
        gt = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        noise = generator.normal(0, generator.uniform(1, 60), gt.shape)
        result = (gt + noise).clip(0, 255).round().astype(np.uint8)
        ours = photo(result), photo(gt)
        assert peak_signal_noise_ratio(gt, result) == pytest.approx(psnr(*ours), abs=1e-6)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        theirs = structural_similarity(gt, result, channel_axis=-1, data_range=255, **options)
        assert theirs == pytest.approx(ssim(*ours), abs=1e-7)
        flat = structural_similarity(gt, result, channel_axis=-1, data_range=255)
        assert flat == pytest.approx(ssim_uniform(*ours), abs=1e-7)


def test_volume_equals_a_direct_sum() -> None:
    """The toolbox's volume SSIM equals a plain loop over an 11×11×11 window with repeated edges."""
    generator = np.random.default_rng(3)
    gt = generator.integers(0, 256, (13, 12, 3)).astype(np.float64)
    result = (gt + generator.normal(0, 20, gt.shape)).clip(0, 255).round()
    row = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = row[:, None, None] * row[None, :, None] * row[None, None, :]
    window /= window.sum()
    x, y = (np.pad(a, 5, mode="edge") for a in (result, gt))
    values = []
    for i, j, k in np.ndindex(gt.shape):
        a, b = (v[i : i + 11, j : j + 11, k : k + 11] for v in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
        covariance = (window * a * b).sum() - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append(
            (2 * mean_a * mean_b + c1)
            * (2 * covariance + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    assert np.mean(values) == pytest.approx(ssim_volume(photo(result), photo(gt)), abs=1e-9)


def test_zero_edges_equal_a_zero_padded_photo() -> None:
    """The inpainting variant scores every pixel with black around the photo."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(3, 20, 24, generator=generator, dtype=torch.float64) for _ in range(2))
    padded = [torch.nn.functional.pad(x, [5] * 4) for x in (a, b)]
    assert ssim(*padded) == pytest.approx(ssim(a, b, edges="zero"), abs=1e-12)


def test_photos_too_small_or_unequal_are_refused() -> None:
    """Less than a window, or two sizes, are one line with the sizes."""
    with pytest.raises(PhotoError, match="11×11 pixels inside the border; there are 10×30"):
        ssim(torch.zeros(3, 18, 38), torch.zeros(3, 18, 38), 4)
    with pytest.raises(PhotoError, match="result is 8×9×3 and GT 8×8×3"):
        _scored(torch.zeros(3, 9, 8), torch.zeros(3, 8, 8), 0)


def test_nan_and_nothing_left_are_not_perfect() -> None:
    """NaN gives NaN in every form of PSNR, and a photo without a pixel inside the border is refused."""
    gt = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    result = gt.clone()
    result[1, 24, 32] = float("nan")
    for score in (psnr, psnr_matched, psnr_shifted):
        assert math.isnan(score(result, gt)) and score(gt, gt) == math.inf
    # A pixel that only the later shifts see.
    edge = gt.clone()
    edge[0, 36, 40] = float("nan")
    assert math.isnan(psnr_shifted(edge, gt))
    for side, border in ((8, 4), (7, 4), (3, 4), (1, 1)):
        with pytest.raises(PhotoError, match=f"{side}×{side} photo has no pixel inside a border of {border}"):
            psnr(gt[:, :side, :side], gt[:, :side, :side], border)
    assert psnr(gt[:, :9, :9], gt[:, :9, :9], 4) == math.inf
    with pytest.raises(PhotoError, match="no pixel"):
        psnr(gt[:, :0], gt[:, :0])


def test_all_variants_of_one_pair(golden: dict, arrays: dict[str, np.ndarray]) -> None:
    """The side-by-side list has the reference figure of each variant, and says who uses it."""
    expected = golden["cat_motion9"]
    pair = photo(arrays["cat_motion9/degraded"]), photo(arrays["cat_motion9/reference"])
    found = variant_scores(*pair)
    assert set(found) == {variant.name for variant in VARIANTS}
    assert all(variant.used_by and variant.definition for variant in VARIANTS)
    for name, value, tolerance in (
        ("psnr_rgb", expected["basicsr"]["crop0_rgb"]["psnr"], 1e-6),
        ("psnr_rgb_border4", expected["basicsr"]["crop4_rgb"]["psnr"], 1e-6),
        ("psnr_y", expected["basicsr"]["crop0_y"]["psnr"], 1e-4),
        ("psnr_y_border4", expected["basicsr"]["crop4_y"]["psnr"], 1e-4),
        ("psnr_tensor", expected["basicsr_torch"]["crop0_psnr"], 1e-4),
        ("ssim_rgb", expected["basicsr"]["crop0_rgb"]["ssim"], 1e-7),
        ("ssim_y", expected["basicsr"]["crop0_y"]["ssim"], 1e-6),
        ("ssim_y_border4", expected["basicsr"]["crop4_y"]["ssim"], 1e-6),
        ("ssim_replicate", expected["ssim_gaussian_replicate_2d_mean"], 1e-7),
        ("ssim_replicate_y", expected["ssim_gaussian_replicate_2d_y"], 1e-6),
        ("ssim_volume", expected["ssim_matlab_volume_3d_independent"], 1e-7),
        ("ssim_uniform", expected["ssim_skimage_default_uniform7"], 1e-7),
    ):
        assert value == pytest.approx(found[name], abs=tolerance), name


def test_variants_of_a_pair_of_our_own() -> None:
    """On motion blur the variants disagree in the known order, and the table prints every one."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    gt = torch.stack([(x * 5) % 64, (y * 7) % 64, ((x + y) * 3) % 64]).double() * 3 / 255
    blurred = (gt + gt.roll((1, 1), (1, 2)) + gt.roll((2, 2), (1, 2))) / 3
    found = variant_scores(blurred, gt)
    assert found["ssim_volume"] > found["ssim_rgb"]
    table = variants_table({"blurred": found})
    assert all(variant.name in table for variant in VARIANTS)


@pytest.mark.parametrize("name", ["astronaut_noise15", "astronaut_blur1p6", "coffee_jpeg40", "cat_motion9"])
def test_realblur_figures(golden: dict, arrays: dict[str, np.ndarray], name: str) -> None:
    """PSNR and SSIM after alignment equal those of the RealBlur script, within 1e-2 dB and 1e-3."""
    pytest.importorskip("cv2", reason="the RealBlur protocol needs OpenCV: pip install 'dirformer[opencv]'")
    expected = golden[name]["restormer_realblur_aligned"]
    pair = photo(arrays[f"{name}/degraded"]), photo(arrays[f"{name}/reference"])
    assert expected["psnr"] == pytest.approx(psnr_aligned(*pair), abs=1e-2)
    assert expected["ssim"] == pytest.approx(ssim_aligned(*pair), abs=1e-3)


def test_alignment_forgives_a_shift_and_a_gain() -> None:
    """A copy moved by half a pixel and darkened scores far better aligned than as it lies."""
    pytest.importorskip("cv2", reason="the RealBlur protocol needs OpenCV: pip install 'dirformer[opencv]'")
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(96.0), indexing="ij")

    def scene(dx: float) -> Tensor:
        waves = torch.sin((x + dx) / 5) * torch.cos(y / 7) + torch.sin((x + dx + 2 * y) / 11)
        return (0.5 + 0.2 * waves).expand(3, -1, -1).double()

    moved, still = 0.9 * scene(0.5), scene(0.0)
    assert psnr_aligned(moved, still) > psnr(moved, still) + 10
    assert ssim_aligned(moved, still) > 0.999


def test_a_difference_in_brightness_is_forgiven() -> None:
    """`psnr_matched` is PSNR behind the mean: an offset costs nothing, what else differs does."""
    gt = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = 0.1 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise -= noise.mean()
    expected = -10 * math.log10(float(noise.square().mean()))
    assert psnr_matched(gt + noise + 0.2, gt) == pytest.approx(expected)
    assert psnr(gt + noise + 0.2, gt) < expected - 5


def test_a_shift_is_forgiven() -> None:
    """`psnr_shifted` finds a whole-pixel shift of up to 6 in any direction, and not a larger one."""
    gt = torch.rand(1, 80, 72, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for down, right in ((0, 0), (6, -5), (-3, 6)):
        assert psnr_shifted(torch.roll(gt, (down, right), (1, 2)), gt) == math.inf
    assert psnr_shifted(torch.roll(gt, (7, 0), (1, 2)), gt) < 20
    with pytest.raises(PhotoError, match="72×30 photo is too small"):
        psnr_shifted(gt[:, :30], gt[:, :30])
