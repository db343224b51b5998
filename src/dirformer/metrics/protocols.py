"""The protocols of the field: everything between a restored photo and a number in a table.

Papers disagree in the channel, the border, the rounding and the window before they disagree in quality.
Each protocol here is one row of a literal table and is named in every result.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from dirformer.ground.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """How one kind of table is filled."""

    name: str
    metrics: tuple[str, ...]
    """Names of metrics (`metrics/table.py`), in the order of the columns."""
    sentence: str
    """What a reader of the table must know."""
    border: int = 0
    """GT pixels cut off along each side before PSNR and SSIM; networks see the whole photo."""
    rounding: Literal["round", "truncate"] = "round"
    """How a restored photo becomes 8-bit before it is scored."""
    needs_masks: bool = False
    """Holes are filled; what is outside the hole is the input's."""
    makes_lq: bool = False
    """The degraded photos are made from the clean ones (`evaluation.mild`)."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sr",
            metrics=("psnr_y", "ssim_y", "lpips_alex", "dists"),
            border=4,
            sentence="8-bit results, Y of BT.601, 4 border pixels cut, SSIM with the 11×11 Gaussian window; "
            "LPIPS (AlexNet) and DISTS on the whole RGB photo",
        ),
        Protocol(
            name="realsr",
            metrics=("psnr_y", "ssim_y", "lpips_vgg", "dists"),
            border=4,
            sentence="8-bit results, Y of BT.601, 4 border pixels cut, SSIM with the 11×11 Gaussian window; "
            "LPIPS (VGG) and DISTS on the whole RGB photo",
        ),
        Protocol(
            name="deblurring",
            metrics=("psnr", "ssim_volume", "ssim"),
            sentence="8-bit results, RGB, no border; ssim_volume is MATLAB's ssim on the RGB array (GoPro, "
            "HIDE), ssim the mean over channels",
        ),
        Protocol(
            name="realblur",
            metrics=("psnr_aligned", "ssim_aligned"),
            sentence="8-bit results, RGB, aligned to the GT by an ECC homography and scaled in brightness; "
            "scores where both overlap (RealBlur tables)",
        ),
        Protocol(
            name="mild",
            metrics=("psnr", "ssim"),
            makes_lq=True,
            sentence="a fixed table of light damage made from the middle 256×256 pixels of clean photos; "
            "8-bit results; ×1: PSNR on RGB; larger scales: PSNR-Y, as many border pixels cut as the scale",
        ),
        Protocol(
            name="inpainting",
            metrics=("fid", "lpips_vgg", "ssim_zero", "psnr"),
            rounding="truncate",
            needs_masks=True,
            sentence="holes filled, the rest of the input kept, truncated to 8 bit; FID between the results "
            "and the GT of the same set; LPIPS (VGG); SSIM with black around the photo",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name; ConfigError names the nearest one."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(str(name), PROTOCOLS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no protocol {name!r}; the nearest is {near!r}, of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
