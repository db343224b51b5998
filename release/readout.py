"""What the IPR tells of a photo's damage: python -m release.readout DATA [MODEL...]

Crops of photos are damaged by one kind at a drawn strength. A linear map to the strength is fitted on half of
the photos and scored on the others: R², 1 is all, 0 is what the mean of all crops tells. It reads the IPR
that the diffusion estimates, and the condition D that CPEN gives. Of a stage-1 network it reads the IPR that
CPEN finds with the clean photo at hand. Prints a Markdown table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from dirformer.data.folders import find_photos
from dirformer.degradations.base import uniform
from dirformer.degradations.light import Blur, Damage, GaussianNoise, Jpeg
from dirformer.evaluation.tables import markdown
from dirformer.ground.device import seeded_generator
from dirformer.ground.photo import read_rgb
from dirformer.networks.diffir import DiffIR, DiffIRS1
from dirformer.weights.load import load

CROPS, SIDE = 12, 128
"""Crops of each photo, and their side in pixels of the LQ photo."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the regression, against the spread of each entry of the IPR; the photos that are fitted on choose."""


def damaged(kind: str, strength: float, seed: int) -> tuple[Damage, float]:
    """Return a damage of a strength in [0, 1], and the number that is read out."""
    if kind == "JPEG quality":
        quality = round(95 - 85 * strength)
        return Jpeg(quality, "4:2:0", (0, 0)), float(quality)
    if kind == "noise sigma":
        return GaussianNoise(50 * strength, grey=False, seed=seed), 50 * strength
    sigma = 0.2 + 1.4 * strength
    return Blur(sigma, sigma, 0.0), sigma


def samples(model: DiffIR, photos: list[Tensor], kind: str) -> tuple[list[Tensor], Tensor]:
    """Return vectors `photos crops p`, one tensor a name of `vectors_of`, and strengths `photos crops`."""
    vectors, targets = [], []
    for number, photo in enumerate(photos):
        for crop in range(CROPS):
            generator = seeded_generator(0, kind, number, crop)
            top, left = (int(uniform(generator, 0, side - SIDE)) for side in photo.shape[1:])
            damage, target = damaged(kind, uniform(generator), number * CROPS + crop)
            gt = photo[:, top : top + SIDE, left : left + SIDE]
            vectors.append(read(model, damage(gt)[None], gt[None], generator))
            targets.append(target)
    shape = (len(photos), CROPS)
    kinds = [torch.cat(each).view(*shape, -1).double() for each in zip(*vectors, strict=True)]
    return kinds, torch.tensor(targets).view(shape).double()


def vectors_of(model: DiffIR) -> tuple[str, ...]:
    """Name the vectors that are read of a network."""
    return ("IPR that sees the clean photo",) if isinstance(model, DiffIRS1) else ("IPR", "condition D")


def read(model: DiffIR, lq: Tensor, gt: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the vectors `1 p` of a photo."""
    if isinstance(model, DiffIRS1):
        return (model.cpen(lq, gt),)
    noise = torch.randn(*model.noise_shape, generator=generator)[:, None]
    condition = model.cpen(lq)
    return model.estimate(condition, noise)[-1], condition


def explained(vectors: Tensor, targets: Tensor) -> float:
    """Fit on the first half of the photos, return R² on the second."""
    half = len(vectors) // 2
    ridge = max(RIDGES, key=lambda r: r_squared(vectors[:half], targets[:half], half // 2, r))
    return r_squared(vectors, targets, half, ridge)


def r_squared(vectors: Tensor, targets: Tensor, half: int, ridge: float) -> float:
    """Fit on `half` photos, return R² on the others."""
    x, u = vectors[:half].flatten(0, 1), vectors[half:].flatten(0, 1)
    y, v = targets[:half].flatten(), targets[half:].flatten()
    mean, spread, level = x.mean(0), x.std(0) + 1e-9, y.mean()
    x, u = (x - mean) / spread, (u - mean) / spread
    weights = torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]).double(), x.T @ (y - level))
    return float(1 - (u @ weights + level - v).square().sum() / (v - v.mean()).square().sum())


@torch.inference_mode()
def main(data: str, *names: str) -> None:
    """Print the table of R² for each model and kind."""
    paths = find_photos(Path(data) / "photos")
    photos = [read_rgb(path).float() / 255 for path in paths[:: max(1, len(paths) // 60)][:60]]
    kinds = ("JPEG quality", "noise sigma", "blur sigma")
    rows = []
    for name in names or ("realsr-x1-compact",):
        model = load(name)
        found = [samples(model, photos, kind) for kind in kinds]
        for number, what in enumerate(vectors_of(model)):
            cells = [f"{explained(each[number], targets):.2f}" for each, targets in found]
            rows.append([f"`{Path(name).stem}`, {what}", *cells])
    print(markdown(["model", *kinds], rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
