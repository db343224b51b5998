"""The networks of the paper, of the release and of this package, by name."""

from __future__ import annotations

from dataclasses import replace

from dirformer.ground.errors import ConfigError
from dirformer.networks.config import ModelConfig


def preset(name: str) -> ModelConfig:
    """Return the preset of that name; ConfigError lists the names there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


_INPAINTING = ModelConfig(
    task="inpainting",
    dim=52,
    blocks=(1, 1, 1, 9),
    refinement_blocks=0,
    ffn_factor=1.8,
    skip="none",
)
_SR_X4 = ModelConfig(
    task="sr",
    scale=4,
    dim=64,
    blocks=(13, 1, 1, 1),
    refinement_blocks=13,
    ffn_factor=2.2,
    norm="bias_free",
    tail="shuffle",
    cpen_blocks=9,
    cpen_unshuffle=1,
)
_SR_X2 = replace(_SR_X4, scale=2, unshuffle=2, cpen_unshuffle=2)
_SR_X1 = replace(_SR_X4, scale=1, unshuffle=4, cpen_unshuffle=4)
_DEBLURRING = ModelConfig(task="deblurring", dim=48, blocks=(3, 5, 6, 6), refinement_blocks=4, ffn_factor=2.0)
# About 1 G Mult-Adds at a 64×64 input: the depth is where a block is dear but sees every pixel
# (decoder level 1 and refinement), the CPEN reads the photo unshuffled, and one convolution enlarges.
_SR_X4_COMPACT = ModelConfig(
    task="sr",
    scale=4,
    dim=16,
    blocks=(2, 2, 2, 2),
    refinement_blocks=8,
    heads=(1, 1, 2, 4),
    ffn_factor=2.0,
    tail="direct",
    skip="bicubic",
    cpen_dim=32,
    cpen_blocks=2,
    cpen_unshuffle=4,
    prior_dim=64,
)
# Tasks that keep the size, 3.0 G Mult-Adds at 256×256: half the size inside, the depth where it is cheap.
# Deblurring and inpainting are deeper (4.3 and 4.4 G).
_COMPACT = replace(
    _SR_X4_COMPACT,
    task="realsr",
    scale=1,
    unshuffle=2,
    blocks=(1, 2, 4, 4),
    refinement_blocks=4,
    skip="nearest",
)

PRESETS: dict[str, ModelConfig] = {
    # as released
    "inpainting": _INPAINTING,
    "inpainting-big": replace(_INPAINTING, blocks=(1, 1, 1, 20), cpen_blocks=8),
    "sr-x4": _SR_X4,
    "sr-x2": _SR_X2,
    "realsr-x4": replace(_SR_X4, task="realsr"),
    "realsr-x2": replace(_SR_X2, task="realsr"),
    "realsr-x1": replace(_SR_X1, task="realsr"),
    "deblurring": _DEBLURRING,
    # at the widths of the paper's text, 48 to 384, CPEN as released
    "inpainting-paper": replace(_INPAINTING, dim=48, ffn_factor=2.66),
    "sr-x4-paper": replace(_SR_X4, dim=48, ffn_factor=2.66),
    "realsr-x4-paper": replace(_SR_X4, task="realsr", dim=48, ffn_factor=2.66),
    "deblurring-paper": replace(_DEBLURRING, ffn_factor=2.66),
    # compact: at most 3 M parameters
    "sr-x4-compact": _SR_X4_COMPACT,
    "realsr-x4-compact": replace(_SR_X4_COMPACT, task="realsr"),
    "realsr-x1-compact": _COMPACT,
    "deblurring-compact": replace(_COMPACT, task="deblurring", blocks=(2, 4, 6, 5), refinement_blocks=6),
    "inpainting-compact": replace(
        _COMPACT, task="inpainting", fill="smooth", blocks=(2, 3, 4, 4), refinement_blocks=8
    ),
}
