"""The pictures of README and cards: python -m release.pictures DATA (make pictures)

For each shipped model two strips, input | restored | clean: of all squares of three photos that were not
trained on, the one that gains most over the input and the one that gains least. The photos may be shown: they
come from the backgrounds of the Budgie desktop (CC0 1.0): the-spices-of-life, beacon-street-sunset,
oakland-zoo-otters.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dirformer.degradations.mask_settings import mask_settings
from dirformer.degradations.masks import draw_mask
from dirformer.degradations.motion import Motion
from dirformer.degradations.resize import resize_bicubic
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator
from dirformer.ground.photo import Photo, read_rgb, side_by_side, write_photo
from dirformer.inference.restorer import Restorer
from dirformer.metrics.psnr_ssim import psnr
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG
from release.places import DOCS

PHOTOS = ("budgie_352.jpg", "budgie_371.jpg", "budgie_377.jpg")
SIDE = 256


def main(data: Path) -> None:
    runpy.run_path(str(DOCS / "demo" / "demo.py"), run_name="__main__")
    with Image.open("out/demo/side_by_side.png") as strip:
        strip.save(DOCS / "demo" / "side_by_side.jpg", quality=90)
    for name in sys.argv[2:] or CATALOG:
        squares = [square for photo in PHOTOS for square in cut(name, data / "photos" / photo)]
        squares.sort(key=lambda square: square[0])
        for kind, (_, *panels) in (("most", squares[-1]), ("least", squares[0])):
            path = DOCS / "pictures" / f"{name}-{kind}.jpg"
            write_photo(path.with_suffix(".png"), Photo(side_by_side(panels)))
            with Image.open(path.with_suffix(".png")) as strip:
                strip.save(path, quality=85)
            path.with_suffix(".png").unlink()
            print(path)


def cut(name: str, path: Path) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Degrade and restore a photo; return (gain in dB, input, restored, clean) of its squares."""
    entry, gt = CATALOG[name], read_rgb(path).float() / 255
    height, width = (side // 8 * 8 for side in gt.shape[1:])
    gt, generator, mask = gt[:, :height, :width], seeded_generator(0, path.name), None
    kind = TASKS[entry.task].degradation
    if kind is None:
        # The settings for 512, as the photo is larger than 256.
        mask = draw_mask(mask_settings("medium", 512), generator, (height, width))
        lq = gt * (1 - mask)
    elif kind == "motion":
        lq = Motion(length=(12, 24), sigma=(1, 1), objects=0)(gt[None], [generator])[0]
    else:
        lq = degradation(kind, entry.scale)(gt[None], [generator])[0]
    restored = Restorer(name, device="cpu").restore(lq, mask)
    shown = lq if mask is None else lq + mask
    if entry.scale > 1:
        shown = resize_bicubic(lq, float(entry.scale), levels=255)
    squares: list[tuple[float, Tensor, Tensor, Tensor]] = []
    for top in range(0, height - SIDE + 1, SIDE // 2):
        for left in range(0, width - SIDE + 1, SIDE // 2):
            window = [-left, left + SIDE - width, -top, top + SIDE - height]
            before, after, clean = (F.pad(photo, window) for photo in (shown, restored, gt))
            if mask is None or 0.05 < float(F.pad(mask, window).mean()) < 0.4:
                squares.append((psnr(after, clean) - psnr(before, clean), before, after, clean))
    return squares


if __name__ == "__main__":
    main(Path(sys.argv[1]))
