"""The demo: a photo is made four times smaller per side, then enlarged again by bicubic and by DiffIR.

The photo, a winter evening above Boston's roofs, comes from the backgrounds of the Budgie desktop
(`backgrounds/beacon-street-sunset.jpg`, CC0 1.0), scaled to 1080 pixels. The network never saw it.
"""

from __future__ import annotations

from pathlib import Path

from dirformer import Restorer
from dirformer.degradations.resize import resize_bicubic
from dirformer.degradations.simple import Bicubic
from dirformer.ground.device import seeded_generator
from dirformer.ground.photo import Photo, read_rgb, side_by_side, write_photo
from dirformer.metrics.psnr_ssim import psnr, rgb_to_y

HERE, OUT = Path(__file__).parent, Path("out/demo")
NETWORK = "sr-x4-compact"


def main() -> None:
    gt = read_rgb(HERE / "photo.jpg").float() / 255
    lq = Bicubic(4)(gt[None], seeded_generator(0))[0]
    bicubic = resize_bicubic(lq, 4.0, levels=255)
    restored = (Restorer(NETWORK).restore(lq) * 255).round() / 255
    for name, photo in (("bicubic", bicubic), (NETWORK, restored)):
        print(f"PSNR-Y {name}: {psnr(rgb_to_y(photo), rgb_to_y(gt), border=4):.2f} dB")
    write_photo(OUT / "lq.png", Photo(lq))
    write_photo(OUT / "restored.png", Photo(restored))
    # The middle of the photo, at full size: bicubic | DiffIR | clean.
    middle = [photo[:, 150:470, 60:480] for photo in (bicubic, restored, gt)]
    write_photo(OUT / "side_by_side.png", Photo(side_by_side(middle)))
    print(f"bicubic | {NETWORK} | clean: {OUT / 'side_by_side.png'}")


if __name__ == "__main__":
    main()
