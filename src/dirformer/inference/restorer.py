"""Photo → network → photo, in memory.

The noise a restoration starts from depends on `seed` and on the pixels the network sees (without what is
in the holes, and the mask, in inpainting), and on nothing else: the same photo gives the same bytes
whatever its file name, its neighbours, the order or the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dirformer.ground.device import choose_device, seeded_generator
from dirformer.ground.errors import CheckpointError, ConfigError, PhotoError
from dirformer.ground.photo import turned, turned_back
from dirformer.inference.engine import Engine
from dirformer.inference.plan import parse_bytes, process_memory
from dirformer.networks.holes import inpainting_input
from dirformer.weights.authors import load_stage2
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import read_header

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORAGES = {"32bit": torch.float32, "16bit": torch.bfloat16}
CONTEXTS = ("auto", "image", "window", "window-prior")
PATCHES = {"sr": 64, "realsr": 64, "deblurring": 256, "inpainting": 256}
"""Sides of the released networks' training patches, pixels of the photo."""


class Restorer:
    """A stage-2 network, ready for photos of any size.

    Args:
        model: a name that `dirformer models` lists, or a weight file.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: of the large products: `float32`, `bfloat16` or `float16`; all else stays float32.
        max_memory: what restoring a photo may take beside the network, such as `2GiB`. Results do not
            depend on it; feature maps that do not fit wait on disk. None: what the machine has.
        storage: of feature maps, `32bit` or `16bit`; 16 bit halve what grows with the photo, at a loss.
        context: what an attention's sums are taken over: `image`, as in training, or `window`, about as
            much of it as training patches showed; `window-prior` gives each window an IPR of its own, too.
            `auto` is what the weight file names as better for its network, else `image`.
        window: side of a window in pixels of the photo; None is the training patch's.
        self_ensemble: restore the photo eight times, turned and flipped, and take the mean (Timofte et al.,
            CVPR 2016; the `+` rows of the field's tables): eight times the work.

    Raises:
        CheckpointError: if the weights are not there or not those of a stage-2 network.
        ConfigError: for a device, precision, storage, limit, context or window that does not exist.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        precision: str = "float32",
        max_memory: str | int | None = None,
        storage: str = "32bit",
        context: str = "auto",
        window: int | None = None,
        self_ensemble: bool = False,
    ) -> None:
        for name, value, choices in (
            ("precision", precision, PRECISIONS),
            ("storage", storage, STORAGES),
            ("context", context, CONTEXTS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        path = find_weights(model)
        self.name, self.self_ensemble = str(model), self_ensemble
        self.device, self.precision = choose_device(device), precision
        self.model = load_stage2(path).to(self.device)
        self.config = self.model.config
        self.task, self.scale = self.config.task, self.config.scale
        facts = _facts(path)
        self.context = str(facts.get("context", "image")) if context == "auto" else context
        if self.context not in CONTEXTS[1:]:
            raise CheckpointError(
                f"{path} asks for context {self.context!r}; expected one of {', '.join(CONTEXTS[1:])}"
            )
        if self.context == "image" and window is not None:
            raise ConfigError(
                f"window is {window}, but context is image; give a window only to context window"
            )
        patch = int(facts.get("patch") or PATCHES[self.task])
        self.window = None if self.context == "image" else window or patch
        self.loaded_memory = process_memory("VmRSS")
        self.engine = Engine(
            self.model,
            precision=PRECISIONS[precision],
            storage=STORAGES[storage],
            max_memory=parse_bytes(max_memory) if isinstance(max_memory, str) else max_memory,
            window=self.window,
            window_prior=self.context == "window-prior",
        )

    @property
    def description(self) -> str:
        """What it does, and where."""
        windows = "" if self.window is None else f", in windows of {self.window} pixels"
        turns = ", mean of eight turns" if self.self_ensemble else ""
        return f"{self.task} ×{self.scale} on {self.device}{windows}{turns}"

    def restore(
        self, pixels: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 y x"] | None = None, seed: int = 0
    ) -> Float[Tensor, "3 H W"]:
        """Restore one photo; H and W are `scale` times h and w.

        Args:
            pixels: RGB in [0, 1].
            mask: 1 in holes, else 0, as large as the photo; an inpainting network needs it, others
                refuse it.
            seed: another seed is another draw of Z_T.

        Returns:
            RGB in [0, 1], on the CPU. In inpainting, pixels outside the hole are those of the input.

        Raises:
            PhotoError: if the mask is missing, superfluous or of another size.
            ConfigError: if the photo does not fit under `max_memory`.
        """
        return self._restore(self.engine.restore, pixels, mask, seed)

    def restore_whole(
        self, pixels: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 y x"] | None = None, seed: int = 0
    ) -> Float[Tensor, "3 H W"]:
        """Restore by the plain modules, the photo as a whole, in float32: what `restore` is held against."""
        return self._restore(self.model, pixels, mask, seed)

    @torch.inference_mode()
    def _restore(
        self, network: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, mask: Tensor | None, seed: int
    ) -> Tensor:
        if not self.self_ensemble:
            restored = self._once(network, pixels, mask, seed)
        else:
            restored = torch.zeros(3, *(side * self.scale for side in pixels.shape[1:]))
            for turn in range(8):
                self.engine.passes = (turn, 8)
                holes = None if mask is None else turned(mask, turn)
                once = self._once(network, turned(pixels, turn), holes, seed)
                restored.add_(turned_back(once, turn), alpha=1 / 8)
        return restored if mask is None else mask * restored + (1 - mask) * pixels

    def _once(
        self, network: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, mask: Tensor | None, seed: int
    ) -> Float[Tensor, "3 H W"]:
        """Return what the network makes of a photo, also outside holes."""
        lq = self._input(pixels, mask)
        generator = seeded_generator(seed, _bytes(lq))
        # Drawn before padding and on the CPU: neither depends on the network's needs nor on the device.
        noise = torch.randn(self.model.noise_shape, generator=generator)[:, None]
        height, width = lq.shape[1:]
        padded = pad_to_multiple(lq[None], self.config.multiple).to(self.device)
        restored = network(padded, noise.to(self.device))[0]
        return restored[:, : height * self.scale, : width * self.scale].float().cpu().clamp(0, 1)

    def _input(
        self, pixels: Float[Tensor, "3 h w"], mask: Float[Tensor, "1 y x"] | None
    ) -> Float[Tensor, "c h w"]:
        if self.task != "inpainting":
            if mask is not None:
                raise PhotoError(
                    f"a mask was given, but {self.name} is a {self.task} network; leave --mask out"
                )
            return pixels
        if mask is None:
            raise PhotoError(f"{self.name} is an inpainting network and needs a mask; give --mask FILE")
        if mask.shape[1:] != pixels.shape[1:]:
            sizes = [f"{t.shape[2]}×{t.shape[1]}" for t in (mask, pixels)]
            raise PhotoError(f"the mask is {sizes[0]} and the photo {sizes[1]}; expected the same size")
        return inpainting_input(self.config, pixels[None], mask[None])[0]


def _facts(weights: Path) -> dict[str, Any]:
    """Return what a weight file says of itself; the authors' files say nothing."""
    try:
        facts: dict[str, Any] = read_header(weights).get("provenance") or {}
    except CheckpointError:
        return {}
    return facts


def pad_to_multiple(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c H W"]:
    """Pad right and bottom to the next multiple: mirrored as far as the photo reaches, then the edge."""
    for axis in (2, 3):
        size = x.shape[axis]
        index = _mirrored_index(size, -(-size // multiple) * multiple)
        x = x.index_select(axis, index.to(x.device))
    return x


def _mirrored_index(size: int, target: int) -> Int[Tensor, "n"]:
    index = torch.arange(target)
    mirrored = (2 * (size - 1) - index).clamp(min=0)
    # Past the far end of the mirror the last mirrored pixel is repeated.
    return torch.where(index < size, index, mirrored)


def _bytes(lq: Tensor) -> bytes:
    # 16-bit integers hold every decoded photo exactly, so equal photos are equal bytes on every platform.
    values = (lq.clamp(0, 1) * 65535).round().to(torch.int32).numpy().astype("<u2")
    return repr(values.shape).encode() + values.tobytes()


def enlarge(alpha: Float[Tensor, "1 h w"], scale: int) -> Float[Tensor, "1 H W"]:
    """Enlarge an alpha channel bicubically, to go with a restored photo."""
    if scale == 1:
        return alpha
    return F.interpolate(alpha[None], scale_factor=float(scale), mode="bicubic")[0].clamp(0, 1)
