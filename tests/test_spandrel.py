"""spandrel's own loader opens DiffIR files, ours and the authors', and restores as we do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dirformer.ground.errors import CheckpointError, MissingExtraError
from dirformer.inference.restorer import Restorer
from dirformer.networks.presets import PRESETS
from dirformer.spandrel import Photos, detect, install
from dirformer.weights.authors import from_authors, to_authors
from dirformer.weights.catalog import CATALOG
from dirformer.weights.checkpoints import from_tensors, save
from helpers import TINY_INPAINTING, TINY_SR, python, tiny

PACKAGES = ("spandrel==0.4.2", "torchvision==0.28.0", "einops")
"""Not in the main environment: torchvision there changes what other libraries do."""


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """A file as spandrel reads it: tensors without header."""
    from safetensors.torch import load_file

    return load_file(path)


def test_keys_tell_our_files(tmp_path: Path) -> None:
    """Our stage-2 files are DiffIR, in 32, 16 and 8 bits; stage 1, teachers and other networks are not."""
    for dtype in (torch.float32, torch.float16, torch.int8):
        save(tmp_path / "two.safetensors", tiny(), dtype=dtype)
        state = tensors(tmp_path / "two.safetensors")
        assert detect(state) and from_tensors(state).config == TINY_SR
    save(tmp_path / "one.safetensors", tiny(stage=1))
    save(tmp_path / "teacher.safetensors", tiny(stage=1), part="cpen")
    assert not detect(tensors(tmp_path / "one.safetensors"))
    assert not detect(tensors(tmp_path / "teacher.safetensors"))
    assert not detect({}) and not detect({"config": 1, "conv_first.weight": 2})


def test_keys_tell_the_authors_files() -> None:
    """Flat keys and LaMa's prefix; stage 1 is left alone."""
    for name in ("sr-x4", "deblurring"):
        state = to_authors(tiny_like(name))
        assert detect(dict(state)) and not detect({f"other.{key}": value for key, value in state.items()})
    state = {f"generator.{key}": value for key, value in to_authors(tiny(TINY_INPAINTING)).items()}
    assert detect(state) and from_authors(state).config.task == "inpainting"
    assert not detect(dict(to_authors(tiny_like("sr-x4", stage=1))))


def tiny_like(name: str, stage: int = 2) -> torch.nn.Module:
    from dataclasses import replace

    small = {"dim": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "cpen_dim": 4, "prior_dim": 8}
    return tiny(replace(PRESETS[name], **small), stage)


def test_photos_of_any_size_are_restored_as_we_do(tmp_path: Path) -> None:
    """Padding, noise, cropping and pasting are those of `Restorer`, for each photo of a batch."""
    for config in (TINY_SR, TINY_INPAINTING):
        save(tmp_path / "net.safetensors", tiny(config))
        restorer = Restorer(tmp_path / "net.safetensors", device="cpu")
        photos = torch.rand(2, 3, 13, 22, generator=torch.Generator().manual_seed(0))
        mask = (photos[:, :1] > 0.7).float() if config.task == "inpainting" else None
        with torch.inference_mode():
            results = Photos(restorer.model)(photos, mask)
        for number, result in enumerate(results):
            ours = restorer.restore(photos[number], None if mask is None else mask[number])
            torch.testing.assert_close(result, ours, atol=1e-5, rtol=0)


def test_damaged_state_dicts(tmp_path: Path) -> None:
    """A config that is missing, no JSON, or of another network is one line."""
    save(tmp_path / "net.safetensors", tiny())
    state = tensors(tmp_path / "net.safetensors")
    huge = json.dumps({"stage": 2, "config": TINY_SR.to_dict() | {"blocks": [999] * 4}})
    for text in ("", "no JSON", "[]", '{"stage": 3}', '{"stage": [], "config": {"task": "sr"}}', huge):
        said = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0)
        with pytest.raises(CheckpointError, match="state dict"):
            from_tensors(state | {"config": said})
    with pytest.raises(CheckpointError, match="state dict lacks"):
        from_tensors({key: value for key, value in state.items() if key != "cpen.embed.weight"})


def test_without_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dirformer\[spandrel\]'"):
        install()


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """spandrel and its torchvision in a folder of their own, installed once."""
    folder = Path(request.config.cache.mkdir("spandrel"))
    if not (folder / "spandrel").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot install {', '.join(PACKAGES)}: {done.stderr.strip()[-200:]}")
    return folder


def opened(packages: Path, *files: Path) -> dict[str, dict]:
    """What a program with spandrel finds in files."""
    script = Path(__file__).with_name("spandrel_client.py")
    done = python(str(script), str(packages), *map(str, files))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def as_ours(found: dict) -> bool:
    """Scale and sizes are found, and the result is ours to 1e-4."""
    right = found["architecture"] == "DiffIR" and found["channels"] == [3, 3] and found["bfloat16"]
    return right and [found["scale"], found["multiple"]] == found["wanted"] and found["off"] <= 1e-4


@pytest.mark.slow
def test_the_loader_opens_our_files(packages: Path, tmp_path: Path) -> None:
    """Every shipped model, with its purpose; a stage-1 file stays unsupported."""
    save(tmp_path / "one.safetensors", tiny(stage=1))
    shipped = [entry.path for entry in CATALOG.values()]
    found = opened(packages, *shipped, tmp_path / "one.safetensors")
    assert found.pop(str(tmp_path / "one.safetensors")) == {"unsupported": True}
    assert all(as_ours(facts) for facts in found.values()), found
    purposes = {Path(name).stem: facts["purpose"] for name, facts in found.items()}
    assert purposes["sr-x4-compact"] == "SR" and purposes["deblurring-compact"] == "Restoration"
    assert purposes["inpainting-compact"] == "Inpainting"


@pytest.mark.slow
def test_the_loader_opens_the_authors_files(packages: Path, shared: Path) -> None:
    """The authors' .pth of super-resolution, and their .ckpt of inpainting."""
    names = ("small_sr_x4_s2.pth", "small_inpainting_s2.ckpt")
    found = opened(packages, *(shared / "reference" / name for name in names))
    assert all(as_ours(facts) for facts in found.values()), found
    kinds = [facts["kind"] for facts in found.values()]
    assert kinds == ["ImageModelDescriptor", "MaskedImageModelDescriptor"]
