"""Steps of training on a GPU, their kernels launched one by one or recorded as a CUDA graph.

    python benchmarks/graphs.py RECIPE data.train=DIR key=value …

The two take turns on the same batches; wall-clock time of a step, its data ready. The part of a launched step
in which the GPU is busy comes from PyTorch's profiler.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dirformer.training.config import load_recipe
from dirformer.training.devices import open_fabric
from dirformer.training.loop import _Run

STEPS, ROUNDS = 10, 5


def main(recipe: str, *overrides: str) -> None:
    config = load_recipe(recipe, [*overrides, "device=cuda", "log=[]"])
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[bool, Any] = {}
        for graphs in (False, True):
            changes = {"out": Path(folder), "graphs": graphs}
            changed = config.model_copy(update=changes)
            runs[graphs] = _Run(changed, open_fabric(changed), print)
        raw = list(islice(runs[False].batches(), STEPS))
        milliseconds: dict[bool, list[float]] = {False: [], True: []}
        for number in range(ROUNDS + 1):
            for graphs, run in runs.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                for batch in raw:
                    run.train_step(batch)
                torch.cuda.synchronize()
                if number:  # the first round chooses kernels and records
                    milliseconds[graphs].append((time.perf_counter() - start) / STEPS * 1e3)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            runs[False].train_step(raw[0])
            torch.cuda.synchronize()
        events = profile.key_averages()
        busy = sum(event.self_device_time_total for event in events) / 1e3
        kernels = sum(event.count for event in events if event.self_device_time_total)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for graphs, values in milliseconds.items():
        print(f"{'recorded' if graphs else 'launched'}: {statistics.median(values):.1f} ms a step")
    print(f"ratio {statistics.median(a / b for a, b in zip(*milliseconds.values(), strict=True)):.2f}")
    print(f"a launched step: {kernels} kernels, GPU busy {busy:.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
