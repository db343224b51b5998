import numpy as np
import pytest
import torch

from dirformer.holes.shown import inpainting_input
from dirformer.holes.smooth import fill_smoothly
from dirformer.networks.presets import preset


def photos_with_holes(count: int = 2, height: int = 37, width: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(count, 3, height, width, generator=generator)
    mask = (torch.rand(count, 1, height, width, generator=generator) < 0.3).float()
    mask[0, :, 5:25, 8:30] = 1
    return photo, mask


def laplace(colour: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation in the hole, mirrored at the photo's edge, by elimination."""
    height, width = hole.shape
    equations, right = np.eye(height * width), colour.ravel().copy()
    for y, x in zip(*np.nonzero(hole), strict=True):
        row = y * width + x
        right[row] = 0
        for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            near = min(max(y + down, 0), height - 1) * width + min(max(x + across, 0), width - 1)
            equations[row, near] -= 0.25
    return np.linalg.solve(equations, right).reshape(height, width)


def test_known_pixels_stay_and_what_is_in_holes_is_not_seen() -> None:
    """A filled photo is the photo outside the holes, and does not depend on what was inside."""
    photo, mask = photos_with_holes()
    filled = fill_smoothly(photo, mask)
    assert torch.equal(filled * (1 - mask), photo * (1 - mask))
    assert torch.equal(filled, fill_smoothly(photo * (1 - mask) + 0.7 * mask, mask))


@pytest.mark.parametrize("side", [4, 9, 20])
def test_a_filling_is_nearly_the_solution_of_laplaces_equation(side: int) -> None:
    """Holes in noise, at the edge or not, come within 4 % of its range of what elimination gives."""
    photo, _ = photos_with_holes(1, 28, 30)
    mask = torch.zeros(1, 1, 28, 30)
    mask[..., 3 : 3 + side, 30 - side :] = 1
    expected = laplace(photo[0, 1].double().numpy(), mask[0, 0].numpy() > 0)
    error = fill_smoothly(photo, mask)[0, 1].numpy() - expected
    assert np.sqrt((error[mask[0, 0].numpy() > 0] ** 2).mean()) < 0.04


def test_a_ramp_is_continued() -> None:
    """A plane is harmonic: a hole in it is filled with the plane."""
    plane = (torch.arange(40)[:, None] * 0.01 + torch.arange(40) * 0.012).expand(1, 3, 40, 40)
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 12:27, 10:28] = 1
    assert (fill_smoothly(plane, mask) - plane).abs().max() < 0.02


def test_a_photo_is_filled_alike_alone_and_in_a_batch() -> None:
    """The number of levels that another photo needs does not matter."""
    photo, mask = photos_with_holes()
    together = fill_smoothly(photo, mask)
    for number in range(2):
        assert torch.equal(fill_smoothly(photo[number, None], mask[number, None])[0], together[number])


def test_a_photo_that_is_all_hole_is_black() -> None:
    """Nothing known gives zeros, not NaN."""
    assert torch.equal(
        fill_smoothly(torch.rand(1, 3, 16, 12), torch.ones(1, 1, 16, 12)), torch.zeros(1, 3, 16, 12)
    )


def test_released_networks_see_black_holes_and_the_mask() -> None:
    """`fill: zero` is the released input, `fill: smooth` that of the compact network."""
    photo, mask = photos_with_holes()
    released = inpainting_input(preset("inpainting").fill, photo, mask)
    assert torch.equal(released, torch.cat([photo * (1 - mask), mask], dim=1))
    compact = inpainting_input("smooth", photo, mask)
    assert torch.equal(compact, torch.cat([fill_smoothly(photo, mask), mask], dim=1))
