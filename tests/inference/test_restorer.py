"""A restoration depends on the photo, the seed and the weights, and on nothing else."""

from __future__ import annotations

import gc
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from dirformer.ground.errors import CheckpointError, ConfigError, PhotoError
from dirformer.inference.options import RestoreOptions
from dirformer.inference.restorer import Restorer, pad_to_multiple, start_noise
from dirformer.kernels.precision import float32_products
from dirformer.weights.checkpoints import HEADER, Inference, save
from helpers import TINY_INPAINTING, TINY_SR, picture, tiny


@pytest.fixture(scope="module")
def sr(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    path = tmp_path_factory.mktemp("weights") / "sr.safetensors"
    save(path, tiny(TINY_SR))
    return Restorer(path, device="cpu")


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    path = tmp_path_factory.mktemp("weights") / "inpainting.safetensors"
    save(path, tiny(TINY_INPAINTING))
    return Restorer(path, device="cpu")


def photo(height: int = 13, width: int = 22, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30))
def test_any_size_is_restored(sr: Restorer, height: int, width: int) -> None:
    """A photo of any size, one pixel included, comes back four times as large, finite, within [0, 1]."""
    restored = sr.restore(photo(height, width))
    assert restored.shape == (3, 4 * height, 4 * width)
    assert restored.isfinite().all() and restored.min() >= 0 and restored.max() <= 1


def test_the_same_photo_and_seed_give_the_same_bytes(sr: Restorer) -> None:
    """Other photos in between, or another order, change nothing; another seed does."""
    first = sr.restore(photo())
    sr.restore(photo(seed=1))
    torch.randn(100)
    assert torch.equal(sr.restore(photo()), first)
    assert not torch.equal(sr.restore(photo(), seed=1), first)


def test_the_result_is_the_networks_own(sr: Restorer) -> None:
    """At a size that needs no padding, the restorer adds nothing to what the network computes."""
    from dirformer.ground.device import seeded_generator

    lq = torch.full((3, 8, 16), 0.5)
    values = torch.full((3, 8, 16), round(0.5 * 65535), dtype=torch.int32).numpy().astype("<u2")
    generator = seeded_generator(0, b"(3, 8, 16)" + values.tobytes())
    noise = torch.randn(1, 8, generator=generator)[:, None]
    with torch.no_grad():
        expected = sr.model(lq[None], noise)[0].clamp(0, 1)
    assert torch.equal(sr.restore_whole(lq), expected)
    assert torch.allclose(sr.restore(lq), expected, rtol=0, atol=1e-5)


@given(height=st.integers(1, 40), width=st.integers(1, 40), multiple=st.sampled_from([8, 16, 32]))
@settings(max_examples=40, deadline=None)
def test_padding_mirrors_then_repeats(height: int, width: int, multiple: int) -> None:
    """Where a mirror reaches it is used (as PyTorch's reflect does), beyond it the last pixel is repeated."""
    x = torch.rand(1, 2, height, width)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[2] % multiple == 0 and padded.shape[3] % multiple == 0
    assert padded.shape[2] - height < multiple and padded.shape[3] - width < multiple
    assert torch.equal(padded[..., :height, :width], x)
    down, right = padded.shape[2] - height, padded.shape[3] - width
    if down < height and right < width:
        assert torch.equal(padded, F.pad(x, (0, right, 0, down), mode="reflect"))
    else:
        mirror = (0, min(right, width - 1), 0, min(down, height - 1))
        rest = (0, right - mirror[1], 0, down - mirror[3])
        assert torch.equal(padded, F.pad(F.pad(x, mirror, mode="reflect"), rest, mode="replicate"))


def test_inpainting_leaves_known_pixels_alone(inpainting: Restorer) -> None:
    """Outside the hole the photo is bit-identical; what was under the hole does not matter."""
    pixels, mask = photo(16, 24), torch.zeros(1, 16, 24)
    mask[:, 4:9, 5:15] = 1
    restored = inpainting.restore(pixels, mask)
    assert torch.equal(restored * (1 - mask), pixels * (1 - mask))
    assert not torch.equal(restored, pixels)
    other = pixels * (1 - mask) + mask * 0.123
    assert torch.equal(inpainting.restore(other, mask), restored)


def test_holes_are_filled_as_the_network_or_the_option_says(tmp_path: Path) -> None:
    """`fill` replaces the filling that the network was trained with; seeds find other exemplars."""
    save(tmp_path / "net.safetensors", tiny(replace(TINY_INPAINTING, fill="exemplar", skip="nearest")))
    pixels, mask = photo(40, 48), torch.zeros(1, 40, 48)
    mask[:, 10:25, 12:30] = 1
    own = Restorer(tmp_path / "net.safetensors", device="cpu", noise="seed")
    smooth = Restorer(tmp_path / "net.safetensors", device="cpu", fill="smooth")
    exemplar = Restorer(tmp_path / "net.safetensors", device="cpu", noise="seed", fill="exemplar")
    assert own.fill == "exemplar"
    assert torch.equal(own.restore(pixels, mask), exemplar.restore(pixels, mask))
    assert not torch.equal(own.restore(pixels, mask), smooth.restore(pixels, mask))
    told: list[float] = []
    own.restore(pixels, mask, progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.1
    assert told[-1] == pytest.approx(1)
    start = torch.zeros(own.model.noise_shape)
    restored = [own.restore(pixels, mask, seed, noise=start) for seed in (0, 0, 1)]
    assert torch.equal(restored[0], restored[1])
    assert not torch.equal(restored[0], restored[2])


def test_a_filling_is_refused_where_none_is_seen(sr: Restorer, inpainting: Restorer) -> None:
    """Networks without holes, or trained on black ones, take no `fill`; nor is there any other."""
    with pytest.raises(ConfigError, match=r"fill is smooth, but .* is a sr ×4 network: it fills no holes"):
        Restorer(sr.name, fill="smooth")
    with pytest.raises(ConfigError, match=r"fill is exemplar, but .*: it sees black holes; leave it out"):
        Restorer(inpainting.name, fill="exemplar")
    with pytest.raises(ConfigError, match="fill is 'black'; expected one of smooth, exemplar"):
        RestoreOptions(fill="black")


def test_masks_are_asked_for_and_refused(sr: Restorer, inpainting: Restorer) -> None:
    """A missing, superfluous or ill-sized mask is one line that says what to do."""
    with pytest.raises(PhotoError, match="which fills no holes; leave it out"):
        sr.restore(photo(), torch.zeros(1, 13, 22))
    with pytest.raises(PhotoError, match="needs a mask; give --mask FILE"):
        inpainting.restore(photo())
    with pytest.raises(PhotoError, match="mask is 9×8 and the photo 22×13"):
        inpainting.restore(photo(), torch.zeros(1, 8, 9))


def test_windows_are_the_training_patch(tmp_path: Path) -> None:
    """In windows, results differ; the side is the one asked for, the file's patch, or the task's usual."""
    save(tmp_path / "plain.safetensors", tiny(), {"licence": "none"})
    save(tmp_path / "known.safetensors", tiny(), inference=Inference(patch=48))
    pixels = photo(64, 96)
    whole = Restorer(tmp_path / "known.safetensors", device="cpu").restore(pixels)
    for name, context, window, expected in (
        ("plain", "window", None, 64),
        ("known", "window", None, 48),
        ("known", "window-prior", 40, 40),
    ):
        restorer = Restorer(tmp_path / f"{name}.safetensors", device="cpu", context=context, window=window)
        assert restorer.window == expected
        assert not torch.equal(restorer.restore(pixels), whole)
    large = Restorer(tmp_path / "known.safetensors", device="cpu", context="window", window=96)
    assert torch.equal(large.restore(pixels), whole)


def test_a_file_may_name_its_context(tmp_path: Path) -> None:
    """By default the weight file's own context and patch hold; what is asked for goes first."""
    path, pixels = tmp_path / "file.safetensors", photo(64, 96)
    save(path, tiny(), inference=Inference("window", 48))
    by_itself, asked = Restorer(path, device="cpu"), Restorer(path, device="cpu", context="window", window=48)
    assert (by_itself.context, by_itself.window) == ("window", 48)
    assert torch.equal(by_itself.restore(pixels), asked.restore(pixels))
    assert "in windows of 48 pixels" in by_itself.description
    assert Restorer(path, device="cpu", window=40).window == 40
    image = Restorer(path, device="cpu", context="image")
    assert image.window is None and not torch.equal(image.restore(pixels), asked.restore(pixels))
    header = {"format": 1, "stage": 2, "config": TINY_SR.to_dict(), "provenance": {"context": "tiles"}}
    save_file(load_file(path), path, metadata={HEADER: json.dumps(header)})
    with pytest.raises(CheckpointError, match="asks for context 'tiles'; expected one of image, window"):
        Restorer(path, device="cpu")


def test_self_ensemble_is_the_mean_of_eight_turns(tmp_path: Path) -> None:
    """NumPy's quarter turns and flips of the photo give the same mean, streamed or whole."""
    save(tmp_path / "file.safetensors", tiny(TINY_SR))
    one = Restorer(tmp_path / "file.safetensors", device="cpu")
    mean = Restorer(tmp_path / "file.safetensors", device="cpu", self_ensemble=True)
    done: list[float] = []
    pixels = photo()
    expected = np.zeros((3, 4 * 13, 4 * 22))
    for flip in (False, True):
        for quarter in range(4):
            seen = np.rot90(pixels.numpy()[:, :, ::-1] if flip else pixels.numpy(), quarter, (1, 2))
            back = np.rot90(one.restore(torch.from_numpy(seen.copy())).numpy(), -quarter, (1, 2))
            expected = expected + (back[:, :, ::-1] if flip else back) / 8
    restored = mean.restore(pixels, progress=done.append)
    np.testing.assert_allclose(restored.numpy(), expected, atol=1e-6)
    assert (restored - mean.restore_whole(pixels)).abs().max() < 1e-5
    assert "mean of eight turns" in mean.description
    assert done[:-1] == sorted(done[:-1]) and done[-1] == pytest.approx(1)


def test_self_ensemble_keeps_what_is_known(tmp_path: Path) -> None:
    """Outside holes every pixel stays as it was; masks turn with the photo."""
    save(tmp_path / "file.safetensors", tiny(TINY_INPAINTING))
    pixels, mask = photo(16, 24), torch.zeros(1, 16, 24)
    mask[:, 3:9, 10:20] = 1
    restored = Restorer(tmp_path / "file.safetensors", device="cpu", self_ensemble=True).restore(pixels, mask)
    known = mask.expand_as(pixels) == 0
    assert torch.equal(restored[known], pixels[known]) and not torch.equal(restored, pixels)


def test_bfloat16_stays_near(sr: Restorer) -> None:
    """16-bit products change results, in the third digit, not in the first."""
    half = Restorer(sr.name, device="cpu", precision="bfloat16").restore(photo(16, 16))
    difference = (half - sr.restore(photo(16, 16))).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize(
    ("precision", "has", "computed"),
    [
        ("float32", True, ""),
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("tf32", True, "float32"),
    ],
)
def test_the_description_says_the_precision(
    sr: Restorer, monkeypatch: pytest.MonkeyPatch, precision: str, has: bool, computed: str
) -> None:
    """Where another one than float32 was asked for, it says what is computed."""
    monkeypatch.setattr("dirformer.kernels.precision.has_bfloat16", lambda: has)
    monkeypatch.setattr("dirformer.kernels.choose.has_bfloat16", lambda: has)
    found = Restorer(sr.name, device="cpu", precision=precision)
    assert found.description == f"sr ×4 on cpu{' in ' * bool(computed)}{computed}"
    assert found.engine.precision == (computed or "float32")


def test_the_whole_is_float32(sr: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What streaming is compared with has no TF32 products on a GPU."""
    seen: list[str] = []
    forward = sr.model.forward

    def spied(lq: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return forward(lq, noise)

    monkeypatch.setattr(sr.model, "forward", spied)
    monkeypatch.setattr(
        "dirformer.inference.restorer.float32_products", lambda _: float32_products(torch.device("cuda"))
    )
    sr.restore_whole(photo())
    assert seen == ["ieee"]


def test_wrong_requests_are_named(tmp_path: Path) -> None:
    """Unknown models, devices, precisions and stages are refused in one line."""
    save(tmp_path / "s1.safetensors", tiny(stage=1))
    with pytest.raises(CheckpointError, match="no model 'sr-x9'"):
        Restorer("sr-x9")
    with pytest.raises(CheckpointError, match="stage-1 network, which needs the clean photo"):
        Restorer(tmp_path / "s1.safetensors")
    with pytest.raises(ConfigError, match="device 'gpu' is not available"):
        Restorer(tmp_path / "s1.safetensors", device="gpu")
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        Restorer(tmp_path / "s1.safetensors", precision="int8")
    with pytest.raises(
        ConfigError, match="context is 'tiles'; expected one of auto, image, window, window-prior"
    ):
        Restorer(tmp_path / "s1.safetensors", context="tiles")
    save(tmp_path / "s2.safetensors", tiny())
    with pytest.raises(ConfigError, match="window is 64, but context is image"):
        Restorer(tmp_path / "s2.safetensors", window=64)
    with pytest.raises(ConfigError, match="window is 8 pixels; this network needs at least"):
        Restorer(tmp_path / "s2.safetensors", context="window", window=8)


def test_a_batch_is_its_photos(sr: Restorer, inpainting: Restorer) -> None:
    """`b 3 h w` gives `b 3 H W`; each photo's bytes are those it has alone."""
    photos = torch.stack([photo(seed=s) for s in range(3)])
    together = sr.restore(photos)
    assert together.shape == (3, 3, 52, 88) and together.dtype == torch.float32
    assert all(torch.equal(together[i], sr.restore(photos[i])) for i in range(3))
    mask = torch.zeros(13, 22, dtype=torch.bool)
    mask[2:9, 3:8] = True
    filled = inpainting.restore(photos, mask)
    assert torch.equal(filled[1], inpainting.restore(photos[1], mask.float()[None]))


def test_every_kind_of_photo_gives_a_tensor(sr: Restorer, tmp_path: Path) -> None:
    """Arrays, PIL images, names of files and tensors of one photo give one result."""
    image = picture(9, 7)
    image.save(tmp_path / "a.png")
    expected = sr.restore(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    for given_ in (image, np.array(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(sr.restore(given_), expected)
    with pytest.raises(PhotoError, match="divide by 255"):
        sr.restore(torch.full((3, 8, 8), 128.0))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_a_restorer(threads: int, tmp_path: Path) -> None:
    """Four threads at once get the bytes that one gets alone, and leave torch's threads as they were."""
    save(tmp_path / "a.safetensors", tiny())
    before = torch.get_num_threads()
    restorer = Restorer(tmp_path / "a.safetensors", device="cpu")
    restorer.engine.threads = threads
    photos = [photo(40 + 8 * s, 24, seed=s) for s in range(4)]
    expected = [restorer.restore(each) for each in photos]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(restorer.restore, photos * 4))
    assert all(torch.equal(g, e) for g, e in zip(got, expected * 4, strict=True))
    assert torch.get_num_threads() == before


def test_a_restorer_is_pickled_by_name_and_options(tmp_path: Path) -> None:
    """A copy restores as the original does; the pickle holds no weights."""
    save(tmp_path / "a.safetensors", tiny())
    restorer = Restorer(tmp_path / "a.safetensors", device="cpu", context="window", window=32)
    data = pickle.dumps(restorer)
    assert len(data) < 1000
    copied = pickle.loads(data)
    assert copied.options == restorer.options and copied.window == 32
    assert torch.equal(copied.restore(photo(48, 48)), restorer.restore(photo(48, 48)))


def test_a_restorer_does_not_grow(tmp_path: Path) -> None:
    """Fifty photos leave no tensor behind."""
    save(tmp_path / "a.safetensors", tiny())
    restorer = Restorer(tmp_path / "a.safetensors", device="cpu", context="window", window=16)

    def living() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    restorer.restore(photo(24, 24))
    before = living()
    for seed in range(50):
        restorer.restore(photo(24, 24, seed=seed))
    assert living() <= before


def test_a_photo_is_planned_once(sr: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPEN and the DIRformer run by one plan."""
    from dirformer.inference import engine

    made: list[object] = []
    make_plan = engine.make_plan
    monkeypatch.setattr(engine, "make_plan", lambda *a, **k: made.append(a) or make_plan(*a, **k))
    sr.restore(photo())
    assert len(made) == 1


def test_noise_can_be_given(sr: Restorer) -> None:
    """Given noise takes the place of the draw: the draw itself changes nothing, other noise does; noise of
    another shape or with NaN is refused.
    """
    drawn = start_noise(sr.model, 3, photo())[:, 0]
    assert torch.equal(sr.restore(photo(), noise=drawn), sr.restore(photo(), seed=3))
    assert not torch.equal(sr.restore(photo(), noise=drawn + 1), sr.restore(photo(), seed=3))
    by_seed = Restorer(sr.name, device="cpu", noise="seed")
    alone = start_noise(sr.model, 3)[:, 0]
    assert torch.equal(sr.restore(photo(), noise=alone), by_seed.restore(photo(), seed=3))
    for wrong in (drawn[:, :4], drawn.repeat(2, 1), drawn * float("nan")):
        with pytest.raises(ConfigError, match=r"the noise is .*expects a tensor of shape \(1, 8\)"):
            sr.restore(photo(), noise=wrong)
    with pytest.raises(ConfigError, match="several priors"):
        Restorer(sr.name, device="cpu", samples=2).restore(photo(), noise=drawn)
