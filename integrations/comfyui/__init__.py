"""DiffIR for ComfyUI: two nodes, and DiffIR files in ComfyUI's own "Load Upscale Model".

Copy or link this folder into `custom_nodes`, and install the package `dirformer` into ComfyUI's Python.
"""

from __future__ import annotations

import functools

import comfy.model_management
import comfy.utils
import folder_paths
import torch

import dirformer.spandrel
from dirformer import DirformerError, Restorer
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG

CATEGORY = "image/restoration"
FOLDER = "upscale_models"
SUFFIXES = (".safetensors", ".pth", ".ckpt")

try:
    dirformer.spandrel.install()
except DirformerError:
    pass  # a ComfyUI without spandrel has no upscale models either


def models(*, mask: bool) -> list[str]:
    """Shipped models that take a mask, or take none, then all files in ComfyUI's folder."""
    shipped = [entry.name for entry in CATALOG.values() if TASKS[entry.task].has_mask == mask]
    files = folder_paths.get_filename_list(FOLDER)
    return shipped + [name for name in files if name.lower().endswith(SUFFIXES)]


@functools.lru_cache(maxsize=2)
def restorer(model: str, device: str, strength: float = 1.0) -> Restorer:
    """A network, kept for the next run."""
    path = model if model in CATALOG else folder_paths.get_full_path(FOLDER, model)
    return Restorer(path, device=device, strength=strength)


def restore(network: Restorer, image: torch.Tensor, mask: torch.Tensor | None, seed: int) -> torch.Tensor:
    """Restore a batch `b h w c` photo by photo, with ComfyUI's progress bar and its cancel button."""
    bar, count = comfy.utils.ProgressBar(1000), len(image)
    results = []
    for number, photo in enumerate(image):

        def told(share: float, number: int = number) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(int(1000 * (number + share) / count))

        holes = None if mask is None else (mask[number % len(mask)] >= 0.5).float().cpu()
        pixels = photo[..., :3].movedim(-1, 0).float().cpu().clamp(0, 1)
        results.append(network.restore(pixels, holes, seed, progress=told).movedim(0, -1))
    return torch.stack(results)


def device() -> str:
    return str(comfy.model_management.get_torch_device())


SEED = ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True})


class DiffIRRestore:
    """Enlarge, clean or deblur photos: whole, without tiles."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "run", ("IMAGE",)
    DESCRIPTION = "Enlarge, clean or deblur photos. Large photos are restored in bands, without seams."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        strength = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05})
        names = (models(mask=False),)
        return {"required": {"image": ("IMAGE",), "model": names, "strength": strength, "seed": SEED}}

    def run(self, image: torch.Tensor, model: str, strength: float, seed: int) -> tuple[torch.Tensor]:
        return (restore(restorer(model, device(), strength), image, None, seed),)


class DiffIRInpaint:
    """Fill what a mask marks; pixels outside stay as they are."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "run", ("IMAGE",)
    DESCRIPTION = "Fill holes that a mask marks. Pixels outside the mask are not touched."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        names = (models(mask=True),)
        return {"required": {"image": ("IMAGE",), "mask": ("MASK",), "model": names, "seed": SEED}}

    def run(self, image: torch.Tensor, mask: torch.Tensor, model: str, seed: int) -> tuple[torch.Tensor]:
        holes = mask if mask.ndim == 3 else mask[None]
        return (restore(restorer(model, device()), image, holes, seed),)


NODE_CLASS_MAPPINGS = {"DiffIRRestore": DiffIRRestore, "DiffIRInpaint": DiffIRInpaint}
NODE_DISPLAY_NAME_MAPPINGS = {"DiffIRRestore": "DiffIR Restore", "DiffIRInpaint": "DiffIR Inpaint"}
