"""What can be evaluated: our networks and the authors', interpolations, and the input as it is.

A method is a name and a function from a photo to its restoration; scores know nothing else about it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dirformer.data.folders import find_photos
from dirformer.degradations.resize import resize_bicubic
from dirformer.ground.device import choose_device
from dirformer.ground.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from dirformer.holes.exemplar import fill_from_exemplars
from dirformer.holes.shown import inpainting_input
from dirformer.holes.smooth import fill_smoothly
from dirformer.kernels.precision import float32_products
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG, find_weights
from dirformer.weights.checkpoints import WHOLE, read_header
from dirformer.weights.load import load_stage1, open_weights

FILLS = "{} fills holes; it goes with --protocol inpainting and --masks"
SPANDREL = "spandrel:"
"""Prefix of weight files that the spandrel library loads."""
RESULTS = "results:"
"""Prefix of finished results: `results:NAME=DIR`."""
ENSEMBLE = "+"
"""Suffix of networks that restore each photo eight times, turned and flipped."""
Restore = Callable[[Tensor, Tensor | None, int, int], Tensor]
"""(lq `3 h w` in [0, 1], mask `1 h w` or None, scale, seed) → `3 h·scale w·scale` in [0, 1]."""


class Finished:
    """Finished results of a method, in a folder.

    Raises:
        DataError: if there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = sorted((path.stem, path) for path in find_photos(folder))

    def of(self, name: str) -> Path:
        """Return the result of a photo: `NAME.png`, or the one file whose name begins with `NAME_`.

        Raises:
            DataError: if there is none, or several.
        """
        found = self._between(name, name + "\0") or self._between(f"{name}_", f"{name}`")  # ` is behind _
        if len(found) != 1:
            many = ", ".join(path.name for path in found[:3]) or "none"
            raise DataError(
                f"{self.folder} has {many} for {name}; expected one result, {name}.png or {name}_….png"
            )
        return found[0]

    def _between(self, first: str, end: str) -> list[Path]:
        places = (bisect_left(self.photos, text, key=lambda pair: pair[0]) for text in (first, end))
        return [path for _, path in self.photos[slice(*places)]]


@dataclass(frozen=True)
class Method:
    """One row of a table."""

    name: str
    restore: Restore
    scale: int | None = None
    """The enlargement it was made for; None does any."""
    fills: bool | None = None
    """Whether it fills holes that a mask marks; None takes photos with and without."""
    device: torch.device | None = None
    """Where it computes, for memory figures."""
    oracle: Callable[[Tensor, Tensor | None, Tensor], Tensor] | None = None
    """Stage 1, which restores with the GT at hand: (lq, mask, gt) → restored. It takes the place of
    `restore`."""
    finished: Finished | None = None
    """Finished results, which are read in place of restoring."""


def find_method(model: str, *, device: str = "auto", precision: str = "float32") -> Method:
    """Return what `model` names.

    Args:
        model: `bicubic`, `lanczos`, `input`, `telea`, `smooth`, `exemplar`, a shipped model's name, a weight
            file (ours or the authors'), either of them with `+` behind it for the mean over eight turns
            (self-ensemble),
            `spandrel:FILE` for what the spandrel library loads (ESRGAN, SwinIR, LaMa …), or
            `results:NAME=DIR` for finished results of any method, named like their photos. A stage-1 file
            sees the GT.
        device: for networks.
        precision: for networks of stage 2; others compute in float32.

    Raises:
        CheckpointError: if it is neither a name nor a weight file that can be read.
        DataError: for finished results that are not there.
    """
    if model in BASELINES:
        return Method(model, BASELINES[model])
    if model.startswith(RESULTS):
        return Method(shown_name(model), unchanged, finished=_finished(model))
    if model.startswith(SPANDREL):
        return _spandrel(model, choose_device(device))
    from dirformer.inference.options import RestoreOptions
    from dirformer.inference.restorer import Restorer

    if is_stage1(model):
        return _oracle(model, choose_device(device))
    options = RestoreOptions(device, precision, self_ensemble=model.endswith(ENSEMBLE))
    restorer = Restorer(model.removesuffix(ENSEMBLE), options)

    def restore(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
        del scale  # checked against the network's own before
        return restorer.restore(lq, mask, seed)

    return Method(model, restore, restorer.scale, TASKS[restorer.task].has_mask, restorer.device)


def shown_name(model: str) -> str:
    """Return what tables call a model: the NAME of finished results, else the model itself."""
    return model.removeprefix(RESULTS).partition("=")[0] if model.startswith(RESULTS) else model


def _finished(model: str) -> Finished:
    name, equals, folder = model.removeprefix(RESULTS).partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"{model!r} names no results; expected results:NAME=DIR")
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is not there; expected the folder of the results of {name}")
    return Finished(Path(folder))


def is_stage1(model: str) -> bool:
    """Return whether a model is a stage-1 network; what cannot be read is none."""
    path = weight_file(model)
    if path is None or model.startswith(SPANDREL) or model.endswith(ENSEMBLE):
        return False
    try:
        if path.suffix == ".safetensors":
            header = read_header(path)
            return header.stage == 1 and header.part == WHOLE
        return open_weights(path).header.stage == 1
    except CheckpointError:
        return False


def _oracle(model: str, device: torch.device) -> Method:
    from dirformer.inference.restorer import pad_to_multiple

    network = load_stage1(find_weights(model)).to(device).eval()
    config = network.config

    @torch.inference_mode()
    def restore(lq: Tensor, mask: Tensor | None, gt: Tensor) -> Tensor:
        height, width = gt.shape[1:]
        seen = lq if mask is None else inpainting_input(config.fill, lq[None], mask[None])[0]
        pair = (
            pad_to_multiple(photo[None], config.multiple * factor).to(device)
            for photo, factor in ((seen, 1), (gt, config.scale))
        )
        with float32_products(device):
            return network(*pair)[0, :, :height, :width].float().cpu().clamp(0, 1)

    has_mask = TASKS[config.task].has_mask
    return Method(model, unchanged, config.scale, has_mask, device, oracle=restore)


def _spandrel(model: str, device: torch.device) -> Method:
    try:
        import spandrel
    except ImportError:
        raise MissingExtraError("spandrel", "spandrel") from None
    path = Path(model.removeprefix(SPANDREL))
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; give spandrel:FILE with a weight file it knows")
    try:
        # Spandrel unpickles by an allow-list of its own.
        network = spandrel.ModelLoader(device).load_from_file(path).eval()
    except (spandrel.UnsupportedModelError, RuntimeError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"spandrel cannot load {path}: {first}") from None
    fills = isinstance(network, spandrel.MaskedImageModelDescriptor)

    @torch.inference_mode()
    def restore(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
        del scale, seed
        given = [lq] if mask is None or not fills else [lq, mask]
        with float32_products(device):
            restored = network(*(x[None].to(device) for x in given))
        return restored[0].float().cpu().clamp(0, 1)

    return Method(model, restore, network.scale, fills, device)


def method_scale(model: str) -> int | None:
    """Return a method's enlargement without building its network; None for what does any.

    Raises:
        CheckpointError: if it is neither a name nor a weight file that can be read.
    """
    if model in BASELINES or model.startswith(RESULTS):
        return None
    path = weight_file(model)
    if path is not None and path.suffix == ".safetensors":
        return int(read_header(path).config.scale)
    return find_method(model).scale


def weight_file(model: str) -> Path | None:
    """Return a model's weight file, or None for what has none."""
    model = model.removesuffix(ENSEMBLE)
    path = CATALOG[model].path if model in CATALOG else Path(model.removeprefix(SPANDREL))
    return path if path.is_file() else None


def fingerprint(model: str) -> str:
    """Return the SHA-256 of a model's weight file, or the name of what has none."""
    path = weight_file(model)
    return model if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def bicubic(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Enlarge as MATLAB's `imresize` on 8-bit values: the bicubic row of the field's tables."""
    del mask, seed
    return lq if scale == 1 else resize_bicubic(lq, float(scale), levels=255)


def lanczos(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Enlarge with Pillow's Lanczos filter (three lobes) on 8-bit values."""
    del mask, seed
    photo = Image.fromarray((lq * 255).round().byte().permute(1, 2, 0).numpy())
    large = photo.resize((photo.width * scale, photo.height * scale), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1).float() / 255


def unchanged(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Return the LQ photo itself, each pixel repeated where the GT is larger."""
    del mask, seed
    return lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def telea(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Fill holes with OpenCV's fast-marching inpainting (Telea 2004), radius 3.

    Raises:
        ConfigError: without a mask; MissingExtraError without OpenCV (the extra `opencv`).
    """
    del scale, seed
    if mask is None:
        raise ConfigError(FILLS.format("telea"))
    try:
        import cv2
    except ModuleNotFoundError:
        raise MissingExtraError("opencv-python-headless", "opencv") from None
    photo, hole = (
        np.ascontiguousarray((x * 255).round().byte().permute(1, 2, 0).numpy()) for x in (lq, mask)
    )
    filled = cv2.inpaint(photo, hole[..., 0], 3, cv2.INPAINT_TELEA)
    return torch.from_numpy(filled).permute(2, 0, 1).float() / 255


def smooth(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Fill holes smoothly (`holes.smooth.fill_smoothly`).

    Raises:
        ConfigError: without a mask.
    """
    del scale, seed
    if mask is None:
        raise ConfigError(FILLS.format("smooth"))
    return fill_smoothly(lq[None], mask[None])[0]


def exemplar(lq: Tensor, mask: Tensor | None, scale: int, seed: int) -> Tensor:
    """Fill holes from exemplars (`holes.exemplar.fill_from_exemplars`): what the compact network begins with.

    Raises:
        ConfigError: without a mask.
    """
    del scale
    if mask is None:
        raise ConfigError(FILLS.format("exemplar"))
    return fill_from_exemplars(lq, mask, seed)


BASELINES: dict[str, Restore] = {
    "bicubic": bicubic,
    "lanczos": lanczos,
    "input": unchanged,
    "telea": telea,
    "smooth": smooth,
    "exemplar": exemplar,
}
