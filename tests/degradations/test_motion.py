"""Motion blur."""

from __future__ import annotations

import pytest
import torch

from dirformer.degradations.motion import Blob, Exposure, Motion, Path, _mean, _warp, average_frames, expose
from dirformer.ground.device import seeded_generator
from dirformer.ground.errors import DataError


def _bar(size: int = 65) -> torch.Tensor:
    photo = torch.full((3, size, size), 0.2)
    photo[:, :, size // 2 - 1 : size // 2 + 2] = 0.8
    return photo


def test_a_path_has_the_length_and_turn_asked_for() -> None:
    """Steps are at most about a pixel of the mean way apart, centred, of the given length and angle."""
    for number in range(20):
        steps = Path(20.0, 0.02, (0.5, 0.5), seed=number).steps()
        assert float(steps[:, :2].diff(dim=0).norm(dim=1).sum()) == pytest.approx(20, rel=1e-4)
        assert float(steps[:, 2].abs().max()) == pytest.approx(0.02, rel=1e-4)
        assert steps.mean(0).abs().max() < 1e-4


def test_blur_is_the_mean_of_moved_photos_in_linear_light() -> None:
    """Away from borders, whole-pixel shifts averaged by hand give what the warps give."""
    photo = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    shifts = torch.tensor([[-1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, -2.0, 0.0]])
    light = photo**2.2
    bordered = torch.nn.functional.pad(light[None], [4] * 4, mode="reflect")[0]
    ours = _mean(_warp(bordered, part, (0.5, 0.5), 4) for part in shifts.split(2))
    # A pixel of the moved photo shows what lies `shift` further on.
    rolled = [torch.roll(light, (-int(down), -int(right)), (1, 2)) for down, right, _ in shifts]
    torch.testing.assert_close(ours[:, 4:-4, 4:-4], sum(rolled)[:, 4:-4, 4:-4] / 3, atol=1e-4, rtol=0)


def test_no_motion_keeps_the_photo() -> None:
    """A way of no length and no turn changes nothing beyond the 8-bit grid."""
    photo = torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    still = Motion(length=(0.0, 0.0), turn=(0.0, 0.0), objects=1.0)
    assert (still(photo, [seeded_generator(0)]) - photo).abs().max() < 3 / 255


def test_rotation_moves_what_is_far_from_the_pivot() -> None:
    """Pure rotation blurs the end of a bar away from the pivot more than the end at it."""
    exposure = Exposure(Path(0.0, 0.06, (0.0, 0.5), seed=1), None)
    blurred = expose(_bar(), exposure)
    assert float(blurred[0, 3, 32]) > 0.75
    assert float(blurred[0, 60, 32]) < 0.7


def test_an_object_moves_alone() -> None:
    """With a still camera only the blob's surroundings change."""
    photo = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    still, moving = Path(0.0, 0.0, (0.5, 0.5), seed=0), Path(12.0, 0.0, (0.5, 0.5), seed=2)
    blurred = expose(photo, Exposure(still, Blob((0.25, 0.25), (0.12, 0.12), moving, seed=3)))
    change = (blurred - photo).abs().mean(0)
    assert float(change[12:20, 12:20].mean()) > 0.1
    assert float(change[40:, 40:].max()) < 1e-2


def test_paths_stay_within_the_margin() -> None:
    """What a crop loses at each side is at least as much as the camera's translation reaches."""
    motion = Motion()
    for i in range(300):
        (exposure,) = motion.draw([seeded_generator(i)], (256, 256))
        assert exposure.camera.steps()[:, :2].abs().max() <= motion.margin


@pytest.mark.parametrize("seed", range(4))
def test_inside_the_margin_is_the_same_as_of_the_whole(seed: int) -> None:
    """Leaving the margin out changes no pixel of the rest, with and without a moving object."""
    photo = torch.rand(1, 3, 96, 104, generator=torch.Generator().manual_seed(0))
    motion = Motion(objects=float(seed % 2))
    draws = motion.draw([seeded_generator(seed)], (96, 104))
    whole = motion.apply(photo, draws)[:, :, 32:-32, 32:-32]
    torch.testing.assert_close(motion.apply_inside(photo, draws), whole, atol=1.01 / 255, rtol=0)
    assert (motion.apply_inside(photo, draws) - whole).abs().mean() < 1e-5


def test_photos_averaged_as_stored_keep_their_brightness() -> None:
    """A moved bar's values add up as they are stored; in linear light the blur comes out brighter."""
    photo, draws = _bar(97)[None], [seeded_generator(3)]
    ways = {"length": (16.0, 16.0), "turn": (0.0, 0.0), "objects": 0.0}
    plain, linear = (Motion(plain=share, **ways)(photo, draws) for share in (1.0, 0.0))  # type: ignore[arg-type]
    assert float(plain.mean()) == pytest.approx(float(photo.mean()), abs=2e-3)
    assert float(linear.mean()) > float(photo.mean()) + 2e-3


def test_averaged_frames_are_a_long_exposure() -> None:
    """Frames add up in linear light: half black, half white is 0.5 to the power of 1 / 2.2."""
    frames = torch.zeros(2, 3, 4, 4)
    frames[1] = 1
    torch.testing.assert_close(average_frames(frames), torch.full((3, 4, 4), 0.5 ** (1 / 2.2)))
    with pytest.raises(DataError, match="no frames"):
        average_frames([])
    with pytest.raises(DataError, match="frame 2"):
        average_frames([torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)])
