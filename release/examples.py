"""Make the examples of the page from the demo's photo: python -m release.examples

A small photo, a noisy one, and one with scratches and its mask: what the three defaults are for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
OUT = ROOT / "src/dirformer/app/examples"
SCRATCHES = (((30, 40), (250, 190), (420, 150)), ((330, 20), (300, 140), (360, 280)), ((60, 250), (190, 230)))
"""Lines of the scratched photo, in pixels."""


def main() -> None:
    """Write the examples."""
    OUT.mkdir(exist_ok=True)
    photo = Image.open(ROOT / "docs/demo/photo.jpg").convert("RGB")
    part = photo.crop((60, 120, 780, 600)).resize((480, 320), Image.Resampling.LANCZOS)
    part.resize((180, 120), Image.Resampling.BICUBIC).save(OUT / "restore_small.jpg", quality=90)
    levels = np.asarray(part, np.float32) + np.random.default_rng(0).normal(0, 18, (320, 480, 3))
    noisy = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    # Pixels that a JPEG can hold without smearing the noise.
    noisy.save(OUT / "restore_noisy.jpg", quality=88)
    mask = Image.new("L", part.size)
    draw = ImageDraw.Draw(mask)
    for line in SCRATCHES:
        draw.line(line, fill=255, width=7, joint="curve")
    part.paste((235, 230, 220), mask=mask)
    part.save(OUT / "fill_scratched.jpg", quality=88)
    mask.convert("1").save(OUT / "fill_scratched.png", optimize=True)


if __name__ == "__main__":
    main()
