"""Metric throughput, and what an evaluation spends outside the network.

    python benchmarks/evaluation.py [--photos 10] [--quick] [--json FILE]

CPU time of one thread throughout: wall time of a shared machine says little. GT photos are 1280×720; the
network is `sr-x4-compact` (shipped weights if they are there, else random ones: time does not depend on
them) on 320×180 photos.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dirformer.evaluation import run as evaluation
from dirformer.evaluation.methods import find_method
from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.scorer import open_scorer
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.presets import PRESETS
from dirformer.weights.checkpoints import save

HEIGHT, WIDTH = 720, 1280


def photo(seed: int) -> np.ndarray:
    """A picture with the statistics that matter here: its size."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / (20 + 7 * c + seed) + y / (30 - 5 * c)) for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 3, (HEIGHT, WIDTH, 3))
    return (128 + 80 * np.stack(waves, -1) + noise).clip(0, 255).round().astype(np.uint8)


def metric_times(repeats: int = 3) -> dict[str, float]:
    """CPU seconds per 720p pair for every metric that needs no weights."""
    gt, result = (torch.from_numpy(photo(seed)).permute(2, 0, 1).double() / 255 for seed in (1, 2))
    names = ("psnr", "psnr_y", "ssim", "ssim_y", "ssim_volume", "gmsd")
    scorer = open_scorer(replace(find_protocol("sr"), metrics=names))
    seconds = {}
    for name, metric in scorer.pairwise.items():
        start = time.process_time()
        for _ in range(repeats):
            metric(result, gt)
        seconds[name] = (time.process_time() - start) / repeats
    return seconds


def evaluation_share(photos: int) -> dict[str, float]:
    """CPU seconds of an `sr` evaluation of 720p photos, inside and outside the network."""
    inside = 0.0

    def timed(model: str, **options: object):
        method = find_method(model, **options)

        def restore(*arguments):
            nonlocal inside
            start = time.process_time()
            result = method.restore(*arguments)
            inside += time.process_time() - start
            return result

        return replace(method, restore=restore)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(photos):
            gt = photo(number)
            lq = gt.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean((1, 3)).round().astype(np.uint8)
            for name, values in (("gt", gt), ("lq", lq)):
                (root / name).mkdir(exist_ok=True)
                Image.fromarray(values).save(root / name / f"{number}.png")
        weights = root / "model.safetensors"
        save(weights, DiffIRS2(PRESETS["sr-x4-compact"]))
        evaluation.find_method = timed
        # The first photo loads the network and fills torch's caches.
        evaluation.evaluate([str(weights)], root / "lq", root / "gt", "sr", device="cpu")
        inside = 0.0
        start = time.process_time()
        evaluation.evaluate([str(weights)], root / "lq", root / "gt", "sr", device="cpu")
        whole = time.process_time() - start
    return {"photos": photos, "seconds": whole, "inside": inside, "share_outside": 1 - inside / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two photos only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    metrics = metric_times()
    print("CPU seconds per 1280×720 pair, one thread:")
    for name, seconds in metrics.items():
        print(f"  {name:12} {seconds:6.3f} s   {1 / seconds:6.1f} pairs/s")
    share = evaluation_share(2 if arguments.quick else arguments.photos)
    print(
        f"evaluating {share['photos']} photos of 720p with sr-x4-compact: {share['seconds']:.1f} s, "
        f"{100 * share['share_outside']:.1f} % outside the network"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"metrics": metrics, "evaluation": share}, indent=2) + "\n")


if __name__ == "__main__":
    main()
