"""What the real-world degradation does to photos: a table and a picture for docs/guides/data.md.

    python -m release.degradation_statistics PHOTOS [--count 2000] [--scale 4] [--kind realsr]

`--kind realsr-graded` prints its shares and what each level does instead.

PHOTOS is a folder of clean photos of at least 256 pixels. Each sample is a 256-pixel crop, degraded as in
training with draws of its own. Needs matplotlib. Writes docs/guides/degradation.svg and prints the table.

What is measured, on the LQ against the crop reduced by MATLAB's bicubic:

- PSNR, RGB, of the LQ against the reduced crop.
- Effective blur, in LQ pixels: the sigma of the Gaussian that, applied to the reduced crop, comes closest
  to the same crop taken through the blurs and resizes alone (no noise, no JPEG).
- Noise: standard deviation of what the two noise steps add, in grey levels, behind all later steps but JPEG.
- JPEG quality as drawn for the last compression.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dirformer.data.datasets import CleanCrops
from dirformer.data.folders import find_photos
from dirformer.degradations import second_order
from dirformer.degradations.blur import Kernel, filter2d
from dirformer.degradations.graded import LEVELS, SINGLE, Graded
from dirformer.degradations.resize import resize_bicubic
from dirformer.degradations.second_order import Draws, PassValues, SecondOrder
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator

SIGMAS = [0.05 * n for n in range(61)]


def silent(values: PassValues) -> PassValues:
    noise = dataclasses.replace(values.noise, strength=0.0)
    return dataclasses.replace(values, noise=noise)


class WithoutJpeg(SecondOrder):
    """The degradation with its compressions left out, to see the other parts."""

    def _jpeg(self, x: Tensor, passes: Sequence[PassValues]) -> Tensor:
        del passes
        return x


def effective_blur(reduced: Tensor, blurred: Tensor) -> float:
    blurs = [
        (s, reduced if s == 0 else filter2d(reduced, Kernel("gaussian", 21, s, s).pixels()[None]))
        for s in SIGMAS
    ]
    return min(blurs, key=lambda pair: float((pair[1] - blurred).square().mean()))[0]


def measure(degrade: SecondOrder, bare: SecondOrder, gt: Tensor, draws: Draws) -> tuple[float, ...]:
    quiet = dataclasses.replace(draws, first=silent(draws.first), second=silent(draws.second))
    lq, noisy, blurred = degrade.apply(gt, [draws]), bare.apply(gt, [draws]), bare.apply(gt, [quiet])
    reduced = resize_bicubic(gt, 1 / degrade.scale).clamp(0, 1)
    psnr = -10 * math.log10(max(float((lq - reduced).square().mean()), 1e-10))
    noise = float((noisy - blurred).std()) * 255
    return psnr, effective_blur(reduced, blurred), noise, draws.second.quality


def plot(path: Path, columns: dict[str, np.ndarray]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dirformer"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(columns), figsize=(12, 2.6), layout="constrained")
    for axis, (name, values) in zip(axes, columns.items(), strict=True):
        axis.hist(values, bins=40, color="#35618f")
        axis.set_xlabel(name)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_yticks([])
    figure.savefig(path, metadata={"Date": None})


def graded_table(degrade: Graded, crops: CleanCrops, count: int) -> None:
    """Print how often each level and each single damage occurs, and the PSNR it leaves."""
    left: dict[str, list[float]] = {}
    for number in range(count):
        gt = crops[number]["gt"][None].float() / 255
        (draws,) = degrade.draw([seeded_generator(0, number)], (256, 256))
        reduced = gt if degrade.scale == 1 else resize_bicubic(gt, 1 / degrade.scale).clamp(0, 1)
        error = float((degrade.apply(gt, [draws]) - reduced).square().mean())
        names = [draws.level, *(f"single: {d.kind}" for d in draws.damages if draws.level == "single")]
        for name in ("all", *names):
            left.setdefault(name, []).append(-10 * math.log10(max(error, 1e-6)))
    print("| | share | 5 % | 25 % | median | 75 % | 95 % |\n|---|---|---|---|---|---|---|")
    kinds = [f"single: {kind.kind}" for kind in SINGLE]
    for name in (*LEVELS[:2], *kinds, *LEVELS[2:], "all"):
        quantiles = np.quantile(left[name], [0.05, 0.25, 0.5, 0.75, 0.95])
        cells = " | ".join(f"{value:.1f}" for value in quantiles)
        print(f"| {name} | {len(left[name]) / count:.1%} | {cells} |")
    edges = [0, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 40, 44, 50, 59.9, 1000]
    shares = np.histogram(left["all"], bins=edges)[0] / count
    print("| PSNR from (dB) | " + " | ".join(f"{e:g}" for e in edges[:-1]) + " |")
    print("|---" * len(edges) + "|\n| share | " + " | ".join(f"{s:.1%}" for s in shares) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--kind", default="realsr")
    arguments = parser.parse_args()
    degrade = degradation(arguments.kind, arguments.scale)
    crops = CleanCrops(find_photos(arguments.photos), 256, seed=0)
    if isinstance(degrade, Graded):
        graded_table(degrade, crops, arguments.count)
        return
    assert isinstance(degrade, second_order.SecondOrder)
    bare = WithoutJpeg(degrade.scale)
    rows = []
    for number in range(arguments.count):
        gt = crops[number]["gt"][None].float() / 255
        (draws,) = degrade.draw([seeded_generator(0, number)], (256, 256))
        rows.append(measure(degrade, bare, gt, draws))
    names = ("PSNR (dB)", "effective blur (sigma, LQ pixels)", "noise (grey levels)", "last JPEG quality")
    columns = dict(zip(names, np.array(rows).T, strict=True))
    print("| | 5 % | 25 % | median | 75 % | 95 % | mean |\n|---|---|---|---|---|---|---|")
    for name, values in columns.items():
        quantiles = [*np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]), values.mean()]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in quantiles) + " |")
    plot(Path(__file__).with_name("degradation.svg"), columns)


if __name__ == "__main__":
    main()
