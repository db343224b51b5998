"""Any size and strength: what is written, of which size, and what of the input is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import dirformer
from dirformer.degradations.resize import resize_bicubic
from dirformer.ground.errors import ConfigError, PhotoError
from dirformer.inference.consistent import inconsistency, make_consistent, resized, shrink
from dirformer.inference.files import FileRun, prior_for, read_prior, restore_file
from dirformer.inference.jobs import FileOptions, Job, spread_path
from dirformer.inference.options import CONTEXTS
from dirformer.inference.restorer import Restorer
from dirformer.inference.sizes import factor_for, parse_box, target_size
from dirformer.weights import checkpoints
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, picture, tiny
from helpers import dirformer as command


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tmp_path / "sr.safetensors", tiny())
    return tmp_path / "sr.safetensors"


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("1920x", (640, 480), (1920, 1440)),
        ("x1080", (640, 480), (1440, 1080)),
        ("1920x1080", (640, 480), (1440, 1080)),
        ("1920×1080", (480, 640), (810, 1080)),
        ("100X100", (1000, 10), (100, 1)),
    ],
)
def test_boxes(text: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """One side, the other, or both to fit inside."""
    factor = factor_for(None, parse_box(text), *size)
    assert factor is not None and target_size(factor, *size) == expected


@pytest.mark.parametrize("text", ["", "x", "1920", "0x", "-3x", "1x2x3", "9999999x", "٣x"])
def test_what_is_no_box(text: str) -> None:
    """Anything else is refused, and so is more than ×16."""
    with pytest.raises(ConfigError, match="expected 1920x"):
        parse_box(text)
    with pytest.raises(PhotoError, match=r"enlarged ×20.0"):
        factor_for(None, (20, None), 1, 1)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 2.0}, (40, 24)),
        ({"scale": 3.0}, (60, 36)),
        ({"scale": 0.3}, (6, 4)),
        ({"scale": 5.5}, (110, 66)),
        ({"box": (50, None)}, (50, 30)),
        ({"box": (9, 9)}, (9, 5)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_any_size(
    tmp_path: Path, weights: Path, options: dict[str, object], size: tuple[int, int], mode: str
) -> None:
    """A ×4 network makes any size, with alpha; the way is said."""
    picture(20, 12, mode=mode).save(tmp_path / "in.png")
    run = FileRun(files=FileOptions(**options))
    restorer = Restorer(weights, device="cpu")
    _, notes = restore_file(restorer, Job(tmp_path / "in.png", tmp_path / "out.png"), run)
    with Image.open(tmp_path / "out.png") as image:
        assert (image.size, image.mode) == (size, mode)
    assert any(f"brought to {size[0]}×{size[1]}" in note for note in notes)


def test_reducing_is_pillow_s_lanczos() -> None:
    """On a plane of floats, as Pillow does it; the same size is the same photo."""
    photo = torch.rand(3, 12, 20)
    small = resized(photo, 10, 6)
    plane = np.asarray(Image.fromarray(photo[1].numpy()).resize((10, 6), Image.Resampling.LANCZOS))
    assert torch.equal(small[1], torch.from_numpy(plane.copy()).clamp(0, 1))
    assert resized(photo, 20, 12) is photo


def test_the_size_chooses_the_model(tmp_path: Path) -> None:
    """Without a model: ×4 for enlarging, ×1 for the own size and less; words for the own size."""
    picture(40, 24).save(tmp_path / "in.png")
    for options, model, size in (
        (("--scale", 2), "realsr-x4-compact", (80, 48)),
        (("--size", "20x"), "realsr-x1-compact", (20, 12)),
        (("--task", "denoise"), "realsr-x1-compact", (40, 24)),
        (("--task", "jpeg"), "realsr-x1-compact", (40, 24)),
    ):
        outcome = command("restore", tmp_path / "in.png", "-o", tmp_path / "o.png", "--overwrite", *options)
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stdout.startswith(f"{model}:")
        with Image.open(tmp_path / "o.png") as image:
            assert image.size == size
    refused = command(
        "restore", tmp_path / "in.png", "-o", tmp_path / "n.png", "--task", "jpeg", "--scale", 2
    )
    assert refused.returncode == 2 and "keeps the size" in refused.stderr
    refused = command(
        "restore", tmp_path / "in.png", "-o", tmp_path / "n.png", "--sharp", "--task", "deblurring"
    )
    assert refused.returncode == 2 and "sharp ones are" in refused.stderr


def test_strength(weights: Path) -> None:
    """0 is exactly the enlarged input, 1 exactly the result, a half lies between."""
    photo = torch.rand(3, 12, 20)
    none, half, full = (
        Restorer(weights, device="cpu", strength=strength).restore(photo) for strength in (0.0, 0.5, 1.0)
    )
    before = torch.nn.functional.interpolate(photo[None], scale_factor=4.0, mode="bicubic")[0].clamp(0, 1)
    assert torch.equal(none, before)
    assert torch.equal(full, Restorer(weights, device="cpu").restore(photo))
    assert torch.allclose(half, (none + full) / 2, atol=1e-6)
    assert not torch.equal(none, full)


def test_strength_0_at_the_own_size_gives_the_file_s_pixels(tmp_path: Path) -> None:
    """Through a ×1 network, to the last level."""
    picture(24, 16).save(tmp_path / "in.png")
    outcome = command(
        "restore", tmp_path / "in.png", "-o", tmp_path / "o.png", "--task", "denoise", "--strength", 0
    )
    assert outcome.returncode == 0, outcome.stderr
    with Image.open(tmp_path / "in.png") as one, Image.open(tmp_path / "o.png") as other:
        assert np.array_equal(np.array(one), np.array(other))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 18)])
def test_shrinking_is_matlab_s(scale: int, size: tuple[int, int]) -> None:
    """The fast form is the slow one, at borders too."""
    photo = torch.rand(3, size[0] * scale, size[1] * scale)
    assert torch.allclose(shrink(photo, scale), resize_bicubic(photo, 1 / scale), atol=2e-6)


def shrunk_picture(scale: int) -> torch.Tensor:
    """What a camera of that scale sees of a picture with black and white areas, in 8 bit."""
    photo = torch.as_tensor(np.array(picture(31 * scale, 18 * scale))).permute(2, 0, 1) / 255
    photo[:, : 6 * scale, : 6 * scale], photo[:, -6 * scale :, -6 * scale :] = 0, 1
    return resize_bicubic(photo, 1 / scale, levels=255)


@pytest.mark.parametrize("scale", [2, 4])
def test_consistent_results_shrink_to_the_input(scale: int) -> None:
    """From a result with much noise, within half a level; values stay in [0, 1], at black and white too."""
    torch.manual_seed(0)
    lq = shrunk_picture(scale)
    start = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    start = (start + 0.1 * torch.randn_like(start)).clamp(0, 1)
    result = make_consistent(start, lq, scale)
    assert 255 * inconsistency(start, lq, scale) > 10
    assert 255 * inconsistency(result, lq, scale) <= 0.5
    assert float(result.min()) >= 0 and float(result.max()) <= 1


def test_consistency_of_a_file_is_said(tmp_path: Path) -> None:
    """The line says how near the written PNG is; a photo is within half a level or nearly so."""
    levels = (255 * shrunk_picture(4)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(tmp_path / "in.png")
    restorer = Restorer("sr-x4-compact", device="cpu", consistent=True)
    _, notes = restore_file(restorer, Job(tmp_path / "in.png", tmp_path / "out.png"))
    with Image.open(tmp_path / "in.png") as one, Image.open(tmp_path / "out.png") as other:
        lq, sr = (torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255 for image in (one, other))
    off = 255 * float((resize_bicubic(sr, 0.25) - lq).abs().max())
    assert off <= 0.5 and f"at most {off:.2f}/255" in notes[0]


def test_what_no_photo_shrinks_to_comes_as_near_as_it_can() -> None:
    """Impossible inputs end, no further away than before."""
    torch.manual_seed(0)
    lq = (torch.rand(3, 9, 7) > 0.5).float()
    start = torch.rand(3, 36, 28)
    assert inconsistency(make_consistent(start, lq, 4), lq, 4) < inconsistency(start, lq, 4)


def test_options_a_network_does_not_have(tmp_path: Path, weights: Path) -> None:
    """Strength and consistency are refused where they mean nothing."""
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    with pytest.raises(ConfigError, match="a hole has no input"):
        Restorer(tmp_path / "fill.safetensors", device="cpu", strength=0.5)
    with pytest.raises(ConfigError, match="for networks that enlarge"):
        Restorer(tmp_path / "fill.safetensors", device="cpu", consistent=True)
    picture(8, 8).save(tmp_path / "in.png")
    arguments = ("restore", tmp_path / "in.png", "-o", tmp_path / "o.png", "--model", weights, "--consistent")
    assert "leave --scale" in command(*arguments, "--scale", 2).stderr


def test_samples(tmp_path: Path, weights: Path) -> None:
    """The mean over the draws of seed, seed + 1, seed + 2, and their standard deviation as a map."""
    photo = torch.rand(3, 12, 20)
    plain = Restorer(weights, device="cpu")
    draws = torch.stack([plain.restore(photo, seed=seed) for seed in (5, 6, 7)])
    mean, spread = Restorer(weights, device="cpu", samples=3).restore_with_spread(photo, seed=5)
    assert torch.allclose(mean, draws.mean(0), atol=1e-6)
    expected = draws.var(0, correction=0).mean(0).sqrt()
    assert torch.allclose(spread, expected, atol=1e-6) and float(expected.max()) > 1e-4
    assert torch.equal(Restorer(weights, device="cpu", samples=3).restore(photo, seed=5), mean)
    picture(20, 12).save(tmp_path / "in.png")
    outcome = command(
        "restore", tmp_path / "in.png", "-o", tmp_path / "o.png", "--model", weights, "--samples", 3
    )
    assert "3 draws: results spread by" in outcome.stdout, outcome.stderr
    with Image.open(spread_path(tmp_path / "o.png")) as image:
        assert image.size == (80, 48) and max(image.getextrema()) == 255


def test_a_prior_can_be_kept_and_used(tmp_path: Path, weights: Path) -> None:
    """Under its own prior a photo gets its own result; under another's another; files keep it exactly."""
    restorer = Restorer(weights, device="cpu")
    one, other = torch.rand(2, 3, 12, 20)
    prior = restorer.prior(one, seed=3)
    assert prior.shape == (8,)
    assert torch.equal(restorer.restore(one, seed=3, prior=prior), restorer.restore(one, seed=3))
    assert not torch.equal(restorer.restore(one, prior=restorer.prior(other)), restorer.restore(one))
    picture(20, 12).save(tmp_path / "in.png")
    kept, model = tmp_path / "p.safetensors", ("--model", weights)
    for name, options in (("a", ("--save-prior", kept, "--seed", 3)), ("b", ("--prior", kept))):
        outcome = command("restore", tmp_path / "in.png", "-o", tmp_path / f"{name}.png", *model, *options)
        assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert torch.equal(read_prior(kept).prior, restorer.prior(tmp_path / "in.png", seed=3))


def test_a_prior_of_another_network_is_refused(tmp_path: Path, weights: Path) -> None:
    """It would be read as something else; files without a digest are known by their model's name."""
    picture(20, 12).save(tmp_path / "in.png")
    save(tmp_path / "other.safetensors", tiny(seed=9))
    kept, arguments = tmp_path / "p.safetensors", ("restore", tmp_path / "in.png", "-o")
    command(*arguments, tmp_path / "a.png", "--model", weights, "--save-prior", kept)
    with_other = (*arguments, tmp_path / "b.png", "--model", tmp_path / "other.safetensors", "--prior", kept)
    outcome = command(*with_other)
    assert outcome.returncode == 2 and f"was found by {weights}" in outcome.stderr
    assert not (tmp_path / "b.png").exists()
    restorer = Restorer(weights, device="cpu")
    prior = read_prior(kept).prior
    save_file({"prior": prior}, kept, metadata={"model": str(weights)})
    assert torch.equal(prior_for(restorer, kept), prior)
    save_file({"prior": prior}, kept, metadata={"model": "realsr-x4-compact"})
    with pytest.raises(ConfigError, match="was found by realsr-x4-compact"):
        prior_for(restorer, kept)


@pytest.mark.parametrize("victim", ["in.png", "foreign.png", "out.png"])
def test_a_kept_prior_replaces_nothing_unasked(tmp_path: Path, weights: Path, victim: str) -> None:
    """Not the photo, not its result, and another file by --overwrite alone; a failed run writes none."""
    picture(20, 12).save(tmp_path / "in.png")
    picture(8, 8).save(tmp_path / "foreign.png")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = ("restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", weights)
    outcome = command(*arguments, "--save-prior", tmp_path / victim)
    assert outcome.returncode == 2 and len(outcome.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    outcome = command(*arguments, "--save-prior", tmp_path / victim, "--overwrite")
    assert outcome.returncode == (0 if victim == "foreign.png" else 2), outcome.stderr
    if victim == "foreign.png":
        read_prior(tmp_path / victim)
    (tmp_path / "broken.png").write_text("no photo")
    kept = tmp_path / "p.safetensors"
    command(*("restore", tmp_path / "broken.png", "-o", tmp_path / "x.png"), "--save-prior", kept)
    assert not kept.exists()


def test_priors_that_do_not_fit(tmp_path: Path, weights: Path) -> None:
    """Other shapes, other files, several priors: one line."""
    restorer = Restorer(weights, device="cpu")
    for wrong in (torch.zeros(7), torch.full((8,), torch.nan)):
        with pytest.raises(ConfigError, match="the prior is"):
            restorer.restore(torch.rand(3, 8, 8), prior=wrong)
    with pytest.raises(ConfigError, match="is no prior"):
        read_prior(weights)
    (tmp_path / "x").write_text("nonsense")
    with pytest.raises(ConfigError, match="is no prior"):
        read_prior(tmp_path / "x")
    with pytest.raises(ConfigError, match="several priors"):
        Restorer(weights, device="cpu", self_ensemble=True).prior(torch.rand(3, 8, 8))


def test_contexts_are_those_of_weight_files() -> None:
    """The list that is known without torch is the list of the weights' header."""
    assert CONTEXTS == checkpoints.CONTEXTS


def test_sizes_from_python(tmp_path: Path, weights: Path) -> None:
    """`restore` takes the same options."""
    picture(20, 12).save(tmp_path / "in.png")
    files = FileOptions(box=(30, 30))
    out = dirformer.restore(tmp_path / "in.png", tmp_path / "out.png", model=weights, files=files)
    with Image.open(out) as image:
        assert image.size == (30, 18)
