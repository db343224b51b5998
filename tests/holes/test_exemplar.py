"""Holes filled from exemplars: what they show, and that compiled and stock search agree."""

import numpy as np
import pytest
import torch

from dirformer.holes import exemplar
from dirformer.holes.exemplar import fill_from_exemplars
from dirformer.holes.match import StockMatcher
from dirformer.holes.shown import inpainting_input
from dirformer.holes.smooth import fill_smoothly
from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.exemplar import library


def stripes(height: int = 72, width: int = 90) -> torch.Tensor:
    """A texture that repeats every 6 pixels, in three colours."""
    wave = torch.arange(width) % 6 < 3
    return torch.stack([wave * 0.8 + 0.1, ~wave * 0.5 + 0.2, torch.full((width,), 0.4)])[:, None].repeat(
        1, height, 1
    )


def noisy(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth random photo, with a large hole at an edge and a scratch."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 6, width // 6, generator=generator)
    photo = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)[0]
    mask = torch.zeros(1, height, width)
    mask[:, : height // 3, 10 : width // 2] = 1
    mask[:, height // 2, 3:-3] = 1
    return photo, mask


def library_or_skip() -> None:
    """Skip where there are no compiled kernels."""
    try:
        library()
    except CompilerMissingError as reason:
        pytest.skip(f"no compiled kernels: {reason}")


def level(height: int, width: int) -> tuple[exemplar._Level, torch.Tensor]:
    """A level at its beginning, and the photo's colours with a smooth filling."""
    photo, mask = noisy(height, width)
    copy = exemplar._Copy(exemplar._bytes(photo, mask[0] > 0), mask[0] > 0)
    colour = torch.where(copy.hole[..., None], exemplar._smooth(copy), copy.colour)
    return exemplar._Level(copy, colour, None, 3), colour


def test_a_texture_goes_on_where_a_smooth_filling_is_fog() -> None:
    """A hole in stripes is filled with the stripes, to a level of 255; the smooth filling is far off."""
    photo, mask = stripes(), torch.zeros(1, 72, 90)
    mask[:, 20:44, 30:60] = 1
    filled = fill_from_exemplars(photo, mask)
    assert (filled - photo).abs().max() < 1.5 / 255
    assert (fill_smoothly(photo[None], mask[None])[0] - photo).abs().max() > 0.3


def test_known_pixels_stay_and_what_is_in_holes_is_not_seen() -> None:
    """A filled photo is the photo outside the holes, and does not depend on what was inside."""
    photo, mask = noisy(70, 83)
    filled = fill_from_exemplars(photo, mask)
    assert torch.equal(filled * (1 - mask), photo * (1 - mask))
    assert torch.equal(filled, fill_from_exemplars(photo * (1 - mask) + 0.7 * mask, mask))
    assert not torch.equal(filled, photo)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40), (6, 6), (20, 9), (97, 64)])
@pytest.mark.parametrize("hole", ["none", "corner", "middle", "all"])
def test_any_size_and_hole(height: int, width: int, hole: str) -> None:
    """Small photos, and photos that are hole all over, are filled too; with nothing known in black."""
    photo, mask = torch.full((3, height, width), 0.5), torch.zeros(1, height, width)
    if hole == "corner":
        mask[:, -1, -1] = 1
    elif hole == "middle":
        mask[:, height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 1
    elif hole == "all":
        mask[:] = 1
    filled = fill_from_exemplars(photo, mask)
    expected = torch.zeros_like(photo) if bool(mask.all()) else photo
    assert (filled - expected).abs().max() < 1.5 / 255


def test_no_whole_patch_gives_the_smooth_filling() -> None:
    """Where no 7×7 pixels are known, nothing can be copied."""
    photo, mask = noisy(24, 30)
    mask[:, ::5] = 1
    smooth = fill_smoothly(photo[None], mask[None])[0]
    assert (fill_from_exemplars(photo, mask) - smooth).abs().max() < 1.5 / 255


def test_threads_do_not_matter_and_seeds_do() -> None:
    """One thread and three give the same bytes; another seed finds other patches."""
    photo, mask = noisy(120, 140)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(fill_from_exemplars(photo, mask))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    assert torch.equal(results[0], fill_from_exemplars(photo, mask, seed=0))
    assert not torch.equal(results[0], fill_from_exemplars(photo, mask, seed=1))


def test_stock_search_gives_the_numbers_of_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole fillings agree bit by bit, with holes at an edge and sizes that are not even."""
    library_or_skip()
    photo, mask = noisy(61, 53)
    compiled = fill_from_exemplars(photo, mask)
    monkeypatch.setattr(exemplar, "matcher", StockMatcher)
    monkeypatch.setattr("dirformer.holes.match._CHUNK", 100)
    assert torch.equal(fill_from_exemplars(photo, mask), compiled)


def test_a_search_improves_and_says_the_true_distances() -> None:
    """No target gets a worse source; sources are known patches; distances agree with a sum in numpy."""
    start, colour = level(48, 56)
    before = start.nearest
    after, distances = start.matcher.search(colour, before, 2, 50, 1)
    unmoved = start.matcher.search(colour, before, 100, 0, 1)
    assert torch.equal(unmoved[0], before)
    assert (distances <= unmoved[1]).all()
    assert (after != before).any()
    width, padded = colour.shape[1], np.pad(colour.numpy().astype(int), ((3, 3), (3, 3), (0, 0)), mode="edge")
    hole = noisy(48, 56)[1][0].numpy() > 0
    fade = exemplar._weights(torch.from_numpy(hole)).numpy().astype(int)
    weight = np.pad(fade, 3, mode="edge")
    for target, source, distance in zip(
        start.target.tolist(), after.tolist(), distances.tolist(), strict=True
    ):
        (ty, tx), (sy, sx) = divmod(target, width), divmod(source, width)
        assert 3 <= sy < 45
        assert 3 <= sx < 53
        assert not hole[sy - 3 : sy + 4, sx - 3 : sx + 4].any()
        error = padded[ty : ty + 7, tx : tx + 7] - padded[sy : sy + 7, sx : sx + 7]
        assert distance == ((error**2).sum(-1) * weight[ty : ty + 7, tx : tx + 7]).sum()


def test_pixels_count_less_the_deeper_they_lie() -> None:
    """Known ones count 64; in a hole 64 · 0.75^depth, depth 1 at its rim, 1 at least."""
    hole = torch.zeros(50, 60, dtype=torch.bool)
    hole[4:46, 5:55] = True
    weight = exemplar._weights(hole)
    assert (weight[~hole] == 64).all()
    for depth in range(1, 22):
        assert weight[3 + depth, 30] == weight[30, 4 + depth] == max(1, round(64 * 0.75 ** min(depth, 15)))


def test_a_smaller_copy_is_the_mean_of_what_is_known() -> None:
    """Of 2×2 pixels with two known ones; with fewer it is a hole. Beyond the edge nothing is known."""
    photo, mask = noisy(33, 41)
    hole = (torch.rand(33, 41, generator=torch.Generator().manual_seed(1)) < 0.5) | (mask[0] > 0)
    colour = exemplar._bytes(photo, hole)
    small = exemplar._half(exemplar._Copy(colour, hole))
    assert small.hole.shape == (17, 21)
    for y in range(17):
        for x in range(21):
            known = ~hole[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            assert small.hole[y, x] == (known.sum() < 2)
            if known.sum() >= 2:
                mean = colour[2 * y : 2 * y + 2, 2 * x : 2 * x + 2][known].double().mean(0)
                assert (small.colour[y, x].double() - mean).abs().max() <= 0.5


def test_a_vote_is_a_weighted_mean() -> None:
    """With equal strength and one source for all, a pixel is the mean of that patch, rounded."""
    start, colour = level(48, 56)
    nearest = torch.full_like(start.nearest, int(start.nearest[0]))
    voted = start.matcher.vote(colour, nearest, torch.ones_like(nearest), start.holes)
    y, x = divmod(int(start.nearest[0]), 56)
    patch = colour[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).double()
    inside = start.holes.long() // 56 >= 3  # patches around the others leave the photo
    assert (voted[inside].double() - patch.mean(0)).abs().max() <= 0.5


def test_a_network_is_shown_the_filling_of_its_configuration() -> None:
    """`fill: exemplar` shows this filling and the mask, photo by photo."""
    photo, mask = noisy(40, 50)
    seen = inpainting_input("exemplar", torch.stack([photo, photo.flip(-1)]), torch.stack([mask, mask]), 5)
    assert torch.equal(seen[1, :3], fill_from_exemplars(photo.flip(-1), mask, 5))
    assert torch.equal(seen[:, 3:], torch.stack([mask, mask]))
