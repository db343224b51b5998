"""The ComfyUI nodes, loaded as ComfyUI loads a folder of nodes, with its interfaces stubbed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dirformer.ground.errors import MissingExtraError
from dirformer.inference.restorer import Restorer
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, tiny

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class CancelledError(Exception):
    """What ComfyUI raises when its user presses cancel."""


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Nodes, folder of models, and what the progress bar was told."""
    state = SimpleNamespace(folder=tmp_path, told=[], cancelled=False, installed=0)

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.total = total

        def update_absolute(self, value: int) -> None:
            state.told.append(value / self.total)

    def throw() -> None:
        if state.cancelled:
            raise CancelledError

    stubs = {
        name: ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management", "folder_paths")
    }
    stubs["comfy"].utils, stubs["comfy"].model_management = (
        stubs["comfy.utils"],
        stubs["comfy.model_management"],
    )
    stubs["comfy.utils"].ProgressBar = ProgressBar
    stubs["comfy.model_management"].get_torch_device = lambda: torch.device("cpu")
    stubs["comfy.model_management"].throw_exception_if_processing_interrupted = throw
    stubs["folder_paths"].get_filename_list = lambda _: sorted(path.name for path in tmp_path.iterdir())
    stubs["folder_paths"].get_full_path = lambda _, name: str(tmp_path / name)
    for name, module in stubs.items():
        monkeypatch.setitem(sys.modules, name, module)

    def install() -> None:
        state.installed += 1
        raise MissingExtraError("spandrel", "spandrel")

    monkeypatch.setattr("dirformer.spandrel.install", install)
    spec = importlib.util.spec_from_file_location("comfyui_nodes", FOLDER / "__init__.py")
    state.module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "comfyui_nodes", state.module)
    spec.loader.exec_module(state.module)
    return state


def make(comfy: SimpleNamespace, name: str, **inputs: object) -> torch.Tensor:
    """What ComfyUI does to run a node."""
    node = comfy.module.NODE_CLASS_MAPPINGS[name]
    assert set(inputs) == set(node.INPUT_TYPES()["required"]) and len(node.RETURN_TYPES) == 1
    return getattr(node(), node.FUNCTION)(**inputs)[0]


def test_nodes_are_offered(comfy: SimpleNamespace) -> None:
    """Both nodes have names, types and models; a ComfyUI without spandrel still gets them."""
    module = comfy.module
    assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS) and comfy.installed == 1
    (comfy.folder / "mine.safetensors").touch()
    (comfy.folder / "notes.txt").touch()
    offered = {
        name: node.INPUT_TYPES()["required"]["model"][0] for name, node in module.NODE_CLASS_MAPPINGS.items()
    }
    assert "sr-x4-compact" in offered["DiffIRRestore"] and "inpainting-compact" in offered["DiffIRInpaint"]
    assert "sr-x4-compact" not in offered["DiffIRInpaint"]
    assert all("mine.safetensors" in names and "notes.txt" not in names for names in offered.values())


def test_a_batch_is_restored_as_we_do(comfy: SimpleNamespace) -> None:
    """Photos of a batch come back enlarged, equal to ours, in [0, 1]; the bar runs to its end."""
    save(comfy.folder / "sr.safetensors", tiny())
    images = torch.rand(
        2, 9, 14, 4, generator=torch.Generator().manual_seed(0)
    )  # with alpha, as some nodes give
    done = make(comfy, "DiffIRRestore", image=images, model="sr.safetensors", strength=1.0, seed=3)
    assert done.shape == (2, 36, 56, 3) and done.dtype == torch.float32
    restorer = Restorer(comfy.folder / "sr.safetensors", device="cpu")
    for image, result in zip(images, done, strict=True):
        ours = restorer.restore(image[..., :3].movedim(-1, 0), seed=3).movedim(0, -1)
        assert torch.equal(result, ours)
    assert comfy.told == sorted(comfy.told) and comfy.told[-1] == 1
    half = make(comfy, "DiffIRRestore", image=images, model="sr.safetensors", strength=0.5, seed=3)
    assert not torch.equal(half, done)


@pytest.mark.parametrize("masks", [(2, 12, 10), (1, 12, 10), (12, 10)])
def test_holes_are_filled(comfy: SimpleNamespace, masks: tuple[int, ...]) -> None:
    """One mask for each photo, one for all, or one alone; pixels outside stay as they are."""
    save(comfy.folder / "fill.safetensors", tiny(TINY_INPAINTING))
    images = torch.rand(2, 12, 10, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(masks)
    mask[..., 3:7, 2:5] = 1
    done = make(comfy, "DiffIRInpaint", image=images, mask=mask, model="fill.safetensors", seed=0)
    hole = torch.zeros(12, 10, dtype=torch.bool)
    hole[3:7, 2:5] = True
    assert torch.equal(done[:, ~hole], images[:, ~hole]) and not torch.equal(done[:, hole], images[:, hole])


def test_cancel_stops_the_work(comfy: SimpleNamespace) -> None:
    """ComfyUI's own exception leaves the node while a photo is at work."""
    save(comfy.folder / "sr.safetensors", tiny())
    comfy.cancelled = True
    with pytest.raises(CancelledError):
        make(
            comfy, "DiffIRRestore", image=torch.rand(1, 9, 9, 3), model="sr.safetensors", strength=1.0, seed=0
        )
    assert comfy.told == []
