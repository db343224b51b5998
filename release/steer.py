"""Can the IPR be turned as a strength: python -m release.steer DATA MODEL

A linear map from the estimated IPR to JPEG quality is fitted on crops of training photos, as in
`release.readout`. Then the IPR of validation photos at quality 40 is moved along it, so that it tells of a
better or worse quality, and the photos are restored under the moved IPR. Beside it: the blend of input and
result that `--strength` makes. Prints a Markdown table: PSNR against the clean photo, and how far the result
is from the input.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from dirformer.data.folders import find_photos
from dirformer.degradations.light import Jpeg
from dirformer.evaluation.tables import markdown
from dirformer.ground.photo import read_rgb
from dirformer.inference.consistent import blend
from dirformer.inference.restorer import Restorer
from dirformer.metrics.psnr_ssim import psnr
from release.readout import RIDGES, samples

QUALITY, SIDE = 40, 256
MOVES = (-40, -20, 0, 20, 40, 60)
"""What the IPR is made to tell, beside the truth."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def direction(model: str, photos: list[Tensor]) -> Tensor:
    """Return the change of the IPR that tells of one quality more: the smallest one that does."""
    restorer = Restorer(model, device="cpu")
    vectors, targets = samples(restorer.model, photos, "JPEG quality")
    x, y = vectors[0].flatten(0, 1), targets.flatten()
    x, y = x - x.mean(0), y - y.mean()
    ridge = RIDGES[2] * x.var(0).mean() * len(x)
    weights = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]).double(), x.T @ y)
    return (weights / weights.square().sum()).float()


@torch.inference_mode()
def main(data: str, model: str) -> None:
    """Print both tables."""
    paths = find_photos(Path(data) / "photos")
    some = paths[:: max(1, len(paths) // 40)][:40]
    move = direction(model, [read_rgb(path).float() / 255 for path in some])
    restorer = Restorer(model, device="cpu")
    scores: dict[str, list[tuple[float, float]]] = {}
    for path in find_photos(Path(data) / "photos_val.txt"):
        gt = read_rgb(path).float() / 255
        top, left = ((side - SIDE) // 2 for side in gt.shape[1:])
        gt = gt[:, top : top + SIDE, left : left + SIDE]
        lq = Jpeg(QUALITY, "4:2:0", (0, 0))(gt)
        own = restorer.prior(lq)
        restored = {f"IPR, quality {by:+d}": restorer.restore(lq, prior=own + by * move) for by in MOVES}
        plain = restored["IPR, quality +0"]
        restored |= {f"blend, strength {s:g}": blend(lq, plain, s, 1) for s in STRENGTHS}
        for name, photo in restored.items():
            change = float((photo - lq).square().mean().sqrt()) * 255
            scores.setdefault(name, []).append((psnr(photo, gt), change))
    rows = [
        [name, f"{fmean(p for p, _ in each):.2f}", f"{fmean(c for _, c in each):.2f}"]
        for name, each in scores.items()
    ]
    print(markdown(["", "PSNR", "change of the input, levels"], rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
