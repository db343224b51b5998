"""How a photo is restored: every choice that is not the network's, checked in one place.

This file does not import torch, so the command line can check arguments before it is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dirformer.ground import checks
from dirformer.ground.errors import ConfigError

AUTO = "auto"
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", AUTO)
STORAGES = {"32bit": "float32", "16bit": "bfloat16"}
"""Name → what torch calls it."""
CONTEXTS = ("image", "window", "window-prior")
"""Those of `weights.checkpoints`, which cannot be imported before torch."""
NOISES = ("photo", "seed")
FILLS = ("smooth", "exemplar")
DEVICES = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?")
MOST_SAMPLES = 1000
MOST_WORKERS = 64
"""Threads that decode, and as many that encode."""
_UNITS = "KMGT"


@dataclass(frozen=True)
class RestoreOptions:
    """Options of a `Restorer`. Immutable; a ConfigError on construction names field, value and rule."""

    device: str = AUTO
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    precision: str = "float32"
    """Of the large products: `float32`, `tf32`, `bfloat16` or `float16`; all else stays float32. `auto` is
    bfloat16 where the device has its products, else float32."""
    max_memory: str | int | None = None
    """What restoring a photo may take beside the network: bytes, or text such as `2GiB`. Results do not
    depend on it; feature maps that do not fit wait on disk. None: what the machine has."""
    storage: str = "32bit"
    """Of feature maps, `32bit` or `16bit`; 16 bit halve what grows with the photo, at a loss."""
    context: str = AUTO
    """What an attention's sums are taken over: `image`, as in training, or `window`, about as much of it as
    training patches showed; `window-prior` also gives each window an IPR of its own. `auto` is what the
    weight file names as better for its network, else `image`."""
    window: int | None = None
    """Side of a window in pixels of the photo; None is the training patch's."""
    self_ensemble: bool = False
    """Restore the photo eight times, turned and flipped, and take the mean (Timofte et al., CVPR 2016; the
    `+` rows of the field's tables): eight times the work."""
    strength: float = 1.0
    """0 to 1: how much of the restoration is shown. 0 is the input (enlarged bicubically, if the network
    enlarges), 1 the result, and between them a linear blend. Inpainting has none: a hole has no input."""
    consistent: bool = False
    """Correct an enlarged photo so that shrinking it (MATLAB's bicubic) gives the input back."""
    noise: str = "photo"
    """What Z_T is drawn from: `photo`, the seed and the photo; `seed`, the seed alone, so that all frames of
    a film start from the same."""
    fill: str | None = None
    """Inpainting, how holes are filled before the network mends them: `smooth`, or `exemplar`, with patches
    from elsewhere in the photo; None: as the network was trained."""
    samples: int = 1
    """Restore under so many draws of the prior, those of `seed`, `seed + 1` …, and take the mean."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("precision", PRECISIONS),
            ("storage", tuple(STORAGES)),
            ("noise", NOISES),
            ("context", (AUTO, *CONTEXTS)),
            ("fill", (None, *FILLS)),
        ):
            checks.choice(name, getattr(self, name), choices)
        # A torch.device is as good as its name.
        device = str(self.device)
        if not DEVICES.fullmatch(device):
            raise ConfigError(
                f"device {device[:40]!r} is not available; expected auto, cpu, cuda, cuda:N or mps"
            )
        share = "0 (the input) to 1 (the result)"
        window, memory = self.window, self.max_memory
        if memory is not None and not isinstance(memory, str):
            memory = checks.whole("max_memory", memory, of="bytes, or text such as 2GiB")
        checks.settle(
            self,
            device=device,
            max_memory=memory,
            window=None if window is None else checks.whole("window", window, 1, of="pixels"),
            self_ensemble=checks.flag("self_ensemble", self.self_ensemble),
            strength=checks.number("strength", self.strength, lambda value: 0 <= value <= 1, share),
            consistent=checks.flag("consistent", self.consistent),
            samples=checks.whole("samples", self.samples, 1, MOST_SAMPLES, of="draws"),
        )
        if self.limit is not None and self.limit < 1:
            raise checks.refused("max_memory", self.max_memory, "at least one byte, such as 2GiB")

    @property
    def limit(self) -> int | None:
        """`max_memory` in bytes."""
        return parse_bytes(self.max_memory) if isinstance(self.max_memory, str) else self.max_memory


def parse_bytes(text: str) -> int:
    """Read `2GiB`, `600 MB`, `1.5G`: powers of 1024 with an i or a bare letter, of 1000 with a B alone.

    Raises:
        ConfigError: if the text is no amount of memory.
    """
    match = re.fullmatch(
        r"\s*([0-9]{0,18}\.?[0-9]{1,18})\s*([KMGT]?)(i?)(B?)\s*", text, re.IGNORECASE | re.ASCII
    )
    if match is None:
        raise ConfigError(f"{text[:40]!r} is no amount of memory; expected something like 2GiB or 600MB")
    number, unit, binary, byte = match.groups()
    power = _UNITS.index(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1000 if byte and not binary else 1024) ** power)
