"""CPU time of the networks of a sweep in the engine, against the first row: what a user pays for a design.

    python benchmarks/designs.py                        # the rows of `equal-time`, 128×128
    python benchmarks/designs.py design --json out.json

Process CPU time of one thread, float32; the networks take turns, ratios are medians over the rounds. Weights
are random: speed does not depend on them. Prior network and diffusion are left out, as in `inference.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from dirformer.experiments.sweeps import Sweep
from dirformer.inference.engine import Engine
from dirformer.networks.diffir import DiffIRS2


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", nargs="?", default="equal-time", help="name or file of a sweep")
    parser.add_argument("--side", type=int, default=128, help="of the square photo, in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the records to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    configs = Sweep(arguments.sweep, ["data.train=.", "data.val=."]).configs
    lq = torch.rand(1, 3, arguments.side, arguments.side, generator=torch.Generator().manual_seed(0))
    runs, sizes = {}, {}
    for name, seeds in configs.items():
        model = DiffIRS2(seeds[0].network_config).eval()
        runs[name] = (Engine(model, threads=1), model.cpen(lq))
        sizes[name] = sum(p.numel() for p in model.parameters())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 1):
        for name, (engine, prior) in runs.items():
            start = time.process_time()
            engine.restore_under(lq, prior)
            if number:  # the first time packs the weights
                times[name].append(time.process_time() - start)
    first, records = next(iter(times.values())), []
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, first, strict=True))
        seconds = statistics.median(taken)
        records.append({"row": name, "cpu_s": seconds, "ratio": ratio, "parameters": sizes[name]})
        print(
            f"{name:16} {1000 * seconds:7.1f} ms  ×{ratio:.3f}  {sizes[name] / 1e6:.2f} M parameters",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"schema": 1, "records": records}, indent=2) + "\n")


if __name__ == "__main__":
    main()
