"""JPEG: libjpeg's arithmetic, and the released simulation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from dirformer.degradations.jpeg import LUMINANCE, jpeg, smooth_round


def _batch(u8: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(u8)).float().movedim(-1, -3).div(255)


def _rms(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float((ours * 255 - _batch(theirs) * 255).square().mean().sqrt())


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with edges: something a JPEG encoder finds in photos."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), 2)[..., None]
    shapes = ndimage.gaussian_filter(rng.normal(size=(height, width)), 6)[..., None] > 0
    tint = ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (8, 8, 0))
    return np.clip(100 + 200 * noise + 60 * shapes + 400 * tint, 0, 255).astype(np.uint8)


def _pillow(photo: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, subsampling=2)
    return np.array(Image.open(file).convert("RGB"))


def test_released_simulation_agrees_with_the_golden_one(shared: Path) -> None:
    """All qualities, hard and smooth rounding, one quality per photo, odd sizes: to 1e-5."""
    golden = np.load(shared / "reference/image_ops.npz")
    for folder in ("jpeg", "jpeg16"):
        photos = _batch(golden[f"{folder}/input_u8"]).reshape(
            -1, 3, *golden[f"{folder}/input_u8"].shape[-3:-1]
        )
        for name in golden.files:
            if not (name.startswith(f"{folder}/q") and "diffjpeg" in name):
                continue
            quality = torch.full((len(photos),), float(name.split("/")[1][1:]))
            rounding = smooth_round if name.endswith("differentiable") else torch.round
            ours = jpeg(photos, quality, released=True, rounding=rounding)
            np.testing.assert_allclose(ours, golden[name].reshape(ours.shape), rtol=0, atol=1e-5)
    photos = _batch(golden["jpeg/input_u8"])
    ours = jpeg(photos, torch.from_numpy(golden["jpeg/per_sample/quality"]), released=True)
    np.testing.assert_allclose(ours, golden["jpeg/per_sample/diffjpeg_round"], rtol=0, atol=1e-5)


def test_released_gradient_agrees_with_the_golden_one(shared: Path) -> None:
    """The gradient through smooth rounding is that of the published simulation."""
    golden = np.load(shared / "reference/image_ops.npz")
    photos = _batch(golden["jpeg/input_u8"]).requires_grad_()
    jpeg(photos, torch.tensor([60.0, 60.0]), released=True, rounding=smooth_round).square().sum().backward()
    expected = golden["jpeg/grad_q60_sum_of_squares"]
    assert photos.grad is not None
    np.testing.assert_allclose(photos.grad, expected, rtol=0, atol=5e-4 * np.abs(expected).max())


def test_default_is_close_to_libjpeg_on_the_golden_pair(shared: Path) -> None:
    """At quality 75 the 48×48 colour pair is within 1.5 levels RMS of libjpeg, and at 30."""
    golden = np.load(shared / "reference/image_ops.npz")
    photo = _batch(golden["jpeg16/input_u8"])[None]
    assert _rms(jpeg(photo, torch.tensor([75.0])), golden["jpeg16/q75/libjpeg_u8"][None]) < 1.5
    assert _rms(jpeg(photo, torch.tensor([30.0])), golden["jpeg16/q30/libjpeg_u8"][None]) < 1.5


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_default_is_close_to_libjpeg(quality: int) -> None:
    """Odd-sized colour and grey photos come out as from Pillow's libjpeg: 2.6 and 1.2 levels RMS at most."""
    colour = _photo(75, 53)
    ours = jpeg(_batch(colour)[None], torch.tensor([float(quality)]))
    assert _rms(ours, _pillow(colour, quality)[None]) < 2.6
    grey = np.repeat(colour[..., :1], 3, axis=2)
    ours = jpeg(_batch(grey)[None], torch.tensor([float(quality)]))
    assert _rms(ours, _pillow(grey, quality)[None]) < 1.2
    np.testing.assert_allclose(ours * 255, (ours * 255).round(), atol=1e-4)


def test_default_is_close_to_libjpeg_on_a_grey_photo(shared: Path) -> None:
    """A grey photo at quality 75: within 1.2 levels RMS."""
    with Image.open(min((shared / "datasets/photos").glob("gb82_*"))) as file:
        grey = np.array(file.convert("L").convert("RGB"))
    assert _rms(jpeg(_batch(grey)[None], torch.tensor([75.0])), _pillow(grey, 75)[None]) < 1.2


def test_released_luminance_follows_its_definition() -> None:
    """On a grey photo: SciPy's cosine transform, the transposed table, black padding: to 1e-5."""
    plane = _photo(37, 30)[..., 0].astype(float)
    padded = np.pad(plane, ((0, 11), (0, 2)))
    blocks = padded.reshape(6, 8, 4, 8).swapaxes(1, 2) - 128
    table = np.array(LUMINANCE).T * 50 / 100
    coefficients = np.round(fft.dctn(blocks, axes=(2, 3), norm="ortho") / table) * table
    back = fft.idctn(coefficients, axes=(2, 3), norm="ortho").swapaxes(1, 2).reshape(48, 32) + 128
    expected = np.clip(back[:37, :30], 0, 255) / 255
    photo = torch.from_numpy(plane).float().div(255).expand(1, 3, -1, -1)
    ours = jpeg(photo, torch.tensor([75.0]), released=True)[0]
    np.testing.assert_allclose(ours[0], expected, rtol=0, atol=1e-5)


def test_quality_is_per_photo() -> None:
    """A photo's result does not depend on the qualities of its neighbours, and qualities are not changed."""
    photos = _batch(np.stack([_photo(32, 32), _photo(32, 32, 1)]))
    quality = torch.tensor([35.0, 90.0])
    together = jpeg(photos, quality)
    assert torch.equal(together[1], jpeg(photos[1:], quality[1:])[0])
    assert quality.tolist() == [35.0, 90.0]
