"""DiffIR for spandrel, the loader behind ComfyUI, chaiNNer and others.

```python
import dirformer.spandrel
from spandrel import ModelLoader

dirformer.spandrel.install()
model = ModelLoader().load_from_file("sr-x4-compact.safetensors")
```

Our weight files and the authors' are told by their keys. Restoring is the plain network on the whole photo,
with the noise that `Restorer` draws for that photo and seed 0.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dirformer.ground.errors import CheckpointError, MissingExtraError
from dirformer.holes.shown import inpainting_input, mended
from dirformer.inference.restorer import pad_to_multiple, start_noise
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS2
from dirformer.tasks import TASKS
from dirformer.weights.authors import from_authors
from dirformer.weights.checkpoints import from_tensors

ID = "DiffIR"
"""What spandrel calls the architecture."""
OURS = ("dirformer.embed.weight", "cpen.embed.weight", "config")
THEIRS = ("condition.E.0.weight", "G.patch_embed.proj.weight", "G.latent.0.attn.temperature")
PREFIXES = ("", "generator.")
"""Before the authors' keys: nothing, or LaMa's name for the network."""


def detect(state: dict[str, Any]) -> bool:
    """Return whether a state dict is a DiffIR of stage 2, ours or the authors'.

    Stage 1 restores only with the clean photo at hand, and is left alone.
    """
    ours = all(key in state for key in OURS) and "diffusion.betas" in state
    return ours or any(all(prefix + key in state for key in THEIRS) for prefix in PREFIXES)


class Photos(nn.Module):
    """A stage-2 network that takes what spandrel gives: photos of any size, and masks where there are holes.

    It pads by itself, so that the noise follows from the photo alone, as in `Restorer`.
    """

    def __init__(self, network: DiffIRS2) -> None:
        super().__init__()
        self.network = network
        self.hyperparameters = network.config.to_dict()

    def forward(
        self, photo: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b 3 H W"]:
        """Restore photos in [0, 1]; the mask is 1 in holes."""
        config, (height, width) = self.network.config, photo.shape[2:]
        lq = photo if mask is None else inpainting_input(config.fill, photo, mask)
        noise = torch.cat([start_noise(self.network, 0, each.float().cpu()) for each in lq], dim=1)
        restored = self.network(pad_to_multiple(lq, config.multiple), noise.to(photo))
        restored = restored[:, :, : height * config.scale, : width * config.scale].clamp(0, 1)
        if mask is None:
            return restored
        each = zip(lq, restored, photo, strict=True)
        return torch.stack([mended(config.fill, *one) for one in each])


def architecture() -> Any:
    """Return DiffIR as a `spandrel.Architecture`.

    Raises:
        MissingExtraError: if spandrel is not installed, or what it needs itself (torchvision).
    """
    spandrel = _require_spandrel()

    # spandrel's own call pads to `size_requirements` first, and then the photo would be another.
    class Image(spandrel.ImageModelDescriptor):  # type: ignore[misc]
        @torch.inference_mode()
        def __call__(self, image: Tensor) -> Tensor:
            return self.model(image)

    class Masked(spandrel.MaskedImageModelDescriptor):  # type: ignore[misc]
        @torch.inference_mode()
        def __call__(self, image: Tensor, mask: Tensor) -> Tensor:
            return self.model(image, mask)

    class DiffIRArch(spandrel.Architecture):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(id=ID, name="DiffIR", detect=detect)

        def load(self, state_dict: dict[str, Any]) -> Any:
            network = _network(state_dict)
            model, facts = Photos(network), _facts(spandrel, network.config)
            known = (model, model.state_dict(), self)
            if TASKS[network.config.task].has_mask:
                return Masked(*known, purpose="Inpainting", **facts)
            scale = network.config.scale
            return Image(*known, purpose="SR" if scale > 1 else "Restoration", scale=scale, **facts)

    return DiffIRArch()


def install(registry: Any = None) -> None:
    """Let spandrel's loaders open DiffIR files. Calling it again does nothing.

    Args:
        registry: a `spandrel.ArchRegistry`; None is the main one, which loaders use by default.

    Raises:
        MissingExtraError: as `architecture`.
    """
    spandrel = _require_spandrel()
    into = spandrel.MAIN_REGISTRY if registry is None else registry
    into.add(spandrel.ArchSupport.from_architecture(architecture()), ignore_duplicates=True)


def _require_spandrel() -> Any:
    try:
        import spandrel
    except ImportError as error:
        raise MissingExtraError(error.name or "spandrel", "spandrel") from None
    return spandrel


def _network(state: dict[str, Any]) -> DiffIRS2:
    network = from_tensors(state) if OURS[0] in state else from_authors(state, "state dict")
    if not isinstance(network, DiffIRS2):
        raise CheckpointError(
            "the state dict is a stage-1 network, which needs the clean photo; give stage 2"
        )
    return network


def _facts(spandrel: Any, config: ModelConfig) -> dict[str, Any]:
    """Return what spandrel's users may want to know of a network."""
    return {
        "tags": [f"{config.dim}dim", f"{sum(config.blocks)}blocks", f"{config.timesteps}steps", config.task],
        "supports_half": False,  # sums over a photo leave float16's range
        "supports_bfloat16": True,
        "input_channels": 3,
        "output_channels": 3,
        "size_requirements": spandrel.SizeRequirements(multiple_of=config.multiple),
        # One IPR and one attention for the whole photo: tiles have others.
        "tiling": spandrel.ModelTiling.DISCOURAGED,
    }
