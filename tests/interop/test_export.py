"""Exported files restore as the network does, in the programs they are for; others are not left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

from dirformer.ground.errors import CheckpointError, ConfigError, ExportError, OutputError
from dirformer.inference.restorer import Restorer, start_noise
from dirformer.interop import export as room
from dirformer.interop.export import export
from dirformer.interop.formats import SUFFIXES, default_out
from dirformer.networks.config import Fill, ModelConfig
from dirformer.networks.presets import PRESETS
from dirformer.weights.catalog import CATALOG
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, TINY_SR, dirformer, picture, python, tiny

ROOT = Path(__file__).parents[2]
RELEASED = (
    "inpainting",
    "inpainting-big",
    "sr-x4",
    "sr-x2",
    "realsr-x4",
    "realsr-x2",
    "realsr-x1",
    "deblurring",
)


def shrunk(config: ModelConfig) -> ModelConfig:
    """The same network, narrow and shallow."""
    few = tuple(min(count, 2) for count in config.blocks)
    refinement, residual = min(config.refinement_blocks, 2), min(config.cpen_blocks, 2)
    return replace(
        config,
        dim=8,
        blocks=few,
        refinement_blocks=refinement,
        cpen_dim=8,
        cpen_blocks=residual,
        prior_dim=16,
    )


Run = Callable[..., torch.Tensor]


def opened(path: Path) -> Run:
    """The file in the program that it is for: noise (or None) and photos to the restored photo."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    else:
        session = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(noise: torch.Tensor | None, **photos: torch.Tensor) -> torch.Tensor:
        arrays = {name: value[None].numpy() for name, value in photos.items()}
        if noise is not None:
            arrays["noise"] = noise[:, None].numpy()
        out = session.run(None, arrays) if path.suffix == ".onnx" else session(arrays)
        return torch.from_numpy(out[0][0].copy())

    return run


def largest(
    restorer: Restorer, run: Run, height: int, width: int, fixed: torch.Tensor | None = None
) -> float:
    """The largest difference of a file from our own restoration of a random photo."""
    generator = torch.Generator().manual_seed(height)
    photos, mask = {"photo": torch.rand(3, height, width, generator=generator)}, None
    if restorer.task == "inpainting":
        mask = (torch.rand(1, height, width, generator=generator) > 0.8).float()
        mask[:, :, width // 3 : width // 2] = 1
        photos["mask"] = mask
    noise = torch.randn(restorer.model.noise_shape, generator=generator) if fixed is None else fixed
    given = noise if fixed is None and restorer.config.timesteps else None
    theirs = run(given, **photos)
    return float((theirs - restorer.restore(photos["photo"], mask, noise=noise)).abs().max())


SMALL = (("sr-x4", "onnx"), ("inpainting", "openvino"))
"""Each in one format; all in both take minutes."""


@pytest.mark.parametrize(("name", "to"), SMALL)
def test_networks_are_equal(name: str, to: str, tmp_path: Path) -> None:
    """A small network restores as ours does, to 1e-4 of 1, at sizes other than those of its own proof."""
    small_is_equal(name, to, tmp_path)


def small_is_equal(name: str, to: str, folder: Path) -> None:
    save(folder / "net.safetensors", tiny(shrunk(PRESETS[name])))
    done = export(folder / "net.safetensors", folder / f"file{SUFFIXES[to]}", to=to)
    assert done.largest <= 1e-4 and all(path.is_file() for path in done.paths)
    restorer, run = Restorer(folder / "net.safetensors", context="image", device="cpu"), opened(done.paths[0])
    for size in ((16, 16), (9, 41), (66, 23)):
        assert largest(restorer, run, *size) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("name", CATALOG)
def test_shipped_models_are_equal_in_both_formats(name: str, to: str, tmp_path: Path) -> None:
    """Every shipped model restores as ours does, to 1e-4 of 1, at sizes other than those of its own proof."""
    done = export(name, tmp_path / f"file{SUFFIXES[to]}", to=to)
    assert done.largest <= 1e-4 and done.psnr > 100
    fill = "smooth" if CATALOG[name].task == "inpainting" else None
    restorer, run = Restorer(name, context="image", device="cpu", fill=fill), opened(done.paths[0])
    for size in ((16, 16), (9, 41), (66, 23)):
        assert largest(restorer, run, *size) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_are_equal_in_both_formats(name: str, to: str, tmp_path: Path) -> None:
    """A small preset of each released network restores as ours does."""
    small_is_equal(name, to, tmp_path)


SWITCHES = {
    "norm": {"norm": "bias_free"},
    "bias": {"bias": True},
    "nearest tail": {"tail": "nearest", "skip": "nearest"},
    "no skip": {"skip": "none"},
    "no unit length": {"qk_norm": False},
    "query axis": {"softmax_axis": "query", "temperature": "divide"},
    "epsilon": {"target": "epsilon", "beta_start": 0.01, "beta_end": 0.05},
    "linear end": {"denoiser_output": "linear"},
    "variance": {"reverse_noise": True, "denoiser_order": "noise_first", "time": "index"},
    "no diffusion": {"timesteps": 0},
    "constant": {"timesteps": 0, "condition": "constant"},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_reading_of_the_paper_can_be_exported(switch: str, tmp_path: Path) -> None:
    """All switches of a network's config reach the file."""
    config = replace(TINY_SR, **SWITCHES[switch])
    model = tiny(config)
    if switch == "epsilon":  # the division by the signal multiplies rounding errors
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "modulation" in key:
                    value.mul_(0.2)
    save(tmp_path / "net.safetensors", model)
    done = export(tmp_path / "net.safetensors", tmp_path / "file.onnx")
    restorer = Restorer(tmp_path / "net.safetensors", device="cpu")
    assert largest(restorer, opened(done.paths[0]), 13, 20) <= 1e-4
    names = [value.name for value in onnx.load(done.paths[0]).graph.input]
    assert names == (["photo", "noise"] if config.timesteps else ["photo"])


@pytest.mark.parametrize("fill", ["smooth", "exemplar"])
def test_smooth_filling_of_any_hole(fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes are filled smoothly, also where a photo is narrower than its holes, and where all is hole.

    A file cannot search for exemplars; it says how the network itself fills.
    """
    config = replace(TINY_INPAINTING, fill=fill, skip="nearest")
    save(tmp_path / "net.safetensors", tiny(config))
    done = export(tmp_path / "net.safetensors", tmp_path / "file.onnx")
    assert done.fill == fill
    run = opened(done.paths[0])
    # The file takes any hole, also those that a Restorer refuses.
    monkeypatch.setattr("dirformer.inference.restorer.require_hole", lambda *_: None)
    restorer = Restorer(tmp_path / "net.safetensors", device="cpu", fill="smooth")
    noise = torch.randn(restorer.model.noise_shape, generator=torch.Generator().manual_seed(0))
    for height, width in ((1, 1), (3, 50), (33, 16)):
        photo = torch.rand(3, height, width, generator=torch.Generator().manual_seed(width))
        for first, last in ((0, width), (width // 4, width), (0, 0)):
            mask = torch.zeros(1, height, width)
            mask[:, :, first:last] = 1
            ours = restorer.restore(photo, mask, noise=noise)
            torch.testing.assert_close(run(noise, photo=photo, mask=mask), ours, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_large_photo_is_as_near_as_a_small_one(tmp_path: Path) -> None:
    """Sums over a quarter of a million pixels do not lose digits."""
    save(tmp_path / "net.safetensors", tiny(replace(TINY_SR, scale=1, unshuffle=4)))
    restorer = Restorer(tmp_path / "net.safetensors", device="cpu")
    for to in ("onnx", "openvino"):
        path = export(tmp_path / "net.safetensors", tmp_path / f"f{SUFFIXES[to]}", to=to).paths[0]
        assert largest(restorer, opened(path), 512, 520) <= 1e-4


@pytest.mark.parametrize("to", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_half_precision_halves_the_file_and_keeps_50_db(to: str, tmp_path: Path) -> None:
    """float16 weights: at most 60 % of the bytes, at least 50 dB."""
    save(tmp_path / "net.safetensors", tiny(replace(TINY_SR, dim=16)))
    sizes = {}
    for precision in ("float32", "float16"):
        out = tmp_path / f"{precision}{SUFFIXES[to]}"
        done = export(tmp_path / "net.safetensors", out, to=to, precision=precision)
        sizes[precision] = done.paths[-1].stat().st_size
        assert done.psnr >= 50
    if to == "openvino":  # its .bin holds weights alone
        assert sizes["float16"] < 0.6 * sizes["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("name", CATALOG)
def test_shipped_models_in_half_precision(name: str, to: str, tmp_path: Path) -> None:
    """Every shipped model keeps 50 dB; its weights are in 16 bits already."""
    done = export(name, tmp_path / f"shipped{SUFFIXES[to]}", to=to, precision="float16")
    assert done.psnr >= 50 and done.paths[-1].stat().st_size < 6e6


def test_a_seed_fixes_the_noise(tmp_path: Path) -> None:
    """With a seed the file has no noise input; another seed is another result."""
    save(tmp_path / "net.safetensors", tiny())
    restorer = Restorer(tmp_path / "net.safetensors", device="cpu")
    results = []
    for seed in (0, 1):
        run = opened(export(tmp_path / "net.safetensors", tmp_path / f"{seed}.onnx", seed=seed).paths[0])
        noise = start_noise(restorer.model, seed)[:, 0]
        assert largest(restorer, run, 10, 20, fixed=noise) <= 1e-5
        results.append(run(None, photo=torch.full((3, 9, 9), 0.5)))
    assert not torch.equal(*results)


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_file_says_what_it_is(to: str, tmp_path: Path) -> None:
    """Task, scale, inputs with shapes and values, and licence are in the file; sizes are dynamic."""
    save(tmp_path / "net.safetensors", tiny(TINY_INPAINTING), {"licence": "CC0"})
    path = export(tmp_path / "net.safetensors", tmp_path / f"file{SUFFIXES[to]}", to=to).paths[0]
    if to == "onnx":
        text = {entry.key: entry.value for entry in onnx.load(path).metadata_props}["dirformer"]
    else:
        text = openvino.Core().read_model(path).get_rt_info("dirformer").astype(str)
    said = json.loads(text)
    assert (said["task"], said["scale"], said["licence"]) == ("inpainting", 1, "CC0")
    assert set(said["inputs"]) == {"photo", "mask", "noise"}
    assert said["inputs"]["noise"]["shape"] == [1, 1, 8]
    assert ModelConfig.from_dict(said["config"]) == TINY_INPAINTING


@pytest.mark.parametrize(("to", "precision"), [("onnx", "float32"), ("openvino", "float16")])
def test_a_wrong_file_is_not_left(
    to: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that differs is refused with the difference; nothing is left, and an old file stays."""
    save(tmp_path / "net.safetensors", tiny())
    right = room.build_graph

    def wrong(model, **options):
        with torch.no_grad():
            model.dirformer.tail[0].bias += 0.01
        return right(model, **options)

    monkeypatch.setattr(room, "build_graph", wrong)
    out = tmp_path / f"file{SUFFIXES[to]}"
    out.write_text("old")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=r"differs .* by up to 0\.01.* nothing was written"):
        export(tmp_path / "net.safetensors", out, to=to, precision=precision, overwrite=True)
    assert sorted(tmp_path.iterdir()) == before and out.read_text() == "old"


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is no small difference."""
    save(tmp_path / "net.safetensors", tiny())
    nan = torch.full((1, 3, 192, 256), float("nan"))
    monkeypatch.setattr(room, "open_onnx", lambda _: lambda _: nan)
    for precision in ("float32", "float16"):
        with pytest.raises(ExportError):
            export(tmp_path / "net.safetensors", tmp_path / "file.onnx", precision=precision)


def test_requests_that_cannot_be(tmp_path: Path) -> None:
    """Wrong words, suffixes, places and weights are named before anything is written."""
    save(tmp_path / "one.safetensors", tiny(stage=1))
    (tmp_path / "there.onnx").write_text("old")
    (tmp_path / "there.bin").write_text("old")
    for error, words, arguments in (
        (ConfigError, "to is 'tflite'; expected one of onnx, openvino", {"to": "tflite", "out": "x.onnx"}),
        (ConfigError, "precision is 'int8'", {"precision": "int8", "out": "x.onnx"}),
        (OutputError, "does not end in .xml", {"to": "openvino", "out": "x.onnx"}),
        (OutputError, "exists already", {"out": tmp_path / "there.onnx"}),
        (OutputError, "there.bin exists already", {"to": "openvino", "out": tmp_path / "there.xml"}),
        (CheckpointError, "no model 'nothing'", {"model": "nothing", "out": tmp_path / "new.onnx"}),
        (CheckpointError, "stage-1", {"model": tmp_path / "one.safetensors", "out": tmp_path / "new.onnx"}),
    ):
        with pytest.raises(error, match=words):
            export(**({"model": "sr-x4-compact"} | arguments))
    assert (tmp_path / "there.onnx").read_text() == "old" and not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/best.safetensors", "best.onnx"),
        ("owner/name", "name.onnx"),
        ("owner/name@v1.0", "name@v1.0.onnx"),
        ("weights/net.v2", "net.v2.onnx"),
    ],
)
def test_names_that_are_chosen(model: str, name: str) -> None:
    """The model's own name, wherever it comes from."""
    assert default_out(model, "onnx") == Path(name)


def test_networks_too_large_for_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the format cannot hold is said before it is tried; suffixes in capitals are suffixes."""
    save(tmp_path / "net.safetensors", tiny())
    assert export(tmp_path / "net.safetensors", tmp_path / "A.ONNX").paths[0].is_file()
    monkeypatch.setattr(room, "MOST_BYTES", 1000)
    with pytest.raises(ExportError, match="GiB of weights"):
        export(tmp_path / "net.safetensors", tmp_path / "b.onnx")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes the file under the model's name, says how near it is, and answers errors at once."""
    monkeypatch.chdir(tmp_path)
    result = dirformer("export", "deblurring-compact", "--precision", "float16", "--json", "said.json")
    assert result.returncode == 0 and "deblurring-compact.onnx: 5" in result.stdout
    said = json.loads(Path("said.json").read_text())
    assert said["files"] == ["deblurring-compact.onnx"] and said["largest"] < 0.01
    result = dirformer("export", "sr-x4-compact", "--to", "coreml")
    assert result.returncode == 2 and "expected one of onnx, openvino" in result.stderr


def test_the_example_needs_onnxruntime_alone(tmp_path: Path) -> None:
    """`integrations/onnxruntime` restores photos, with a mask too, without torch and dirformer."""
    save(tmp_path / "sr.safetensors", tiny())
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    picture(30, 22).save(tmp_path / "photo.png")
    Image.new("L", (30, 22), 255).save(tmp_path / "mask.png")
    script = (ROOT / "integrations" / "onnxruntime" / "restore.py").read_text()
    alone = tmp_path / "alone.py"
    alone.write_text("import sys\nsys.modules['torch'] = sys.modules['dirformer'] = None\n" + script)
    for name, size in (("sr", (120, 88)), ("fill", (30, 22))):
        export(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.onnx", seed=0)
        more = ["mask.png"] if name == "fill" else []
        python("alone.py", f"{name}.onnx", "photo.png", "result.png", *more, check=True, cwd=tmp_path)
        with Image.open(tmp_path / "result.png") as file:
            result = file.convert("RGB")
        assert result.size == size
        if name == "sr":
            restorer = Restorer(tmp_path / "sr.safetensors", device="cpu")
            noise = start_noise(restorer.model, 0)[:, 0]
            ours = restorer.restore(tmp_path / "photo.png", noise=noise).permute(1, 2, 0).numpy()
            assert np.abs(np.asarray(result, dtype=float) - ours * 255).max() <= 1
