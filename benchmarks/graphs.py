"""Steps of training on a GPU, their kernels launched one by one or recorded as a CUDA graph.

    python benchmarks/graphs.py RECIPE data.train=DIR key=value …

The two take turns; wall-clock time of a step without the waiting for its data. How long the GPU is busy
comes from PyTorch's profiler.
"""

from __future__ import annotations

import statistics
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from dirformer.training.config import load_recipe
from dirformer.training.devices import open_fabric
from dirformer.training.trial import try_out

STEPS, ROUNDS = 20, 5


def main(recipe: str, *overrides: str) -> None:
    config = load_recipe(recipe, [*overrides, "device=cuda"])
    fabric = open_fabric(config)
    try_out(config, fabric)  # libraries choose kernels
    milliseconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for graphs, values in milliseconds.items():
            trial = try_out(config.model_copy(update={"graphs": graphs}), fabric, STEPS)
            values.append(trial.seconds * (1 - trial.data_wait) * 1e3)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        try_out(config, fabric, STEPS)
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / (STEPS + 2) / 1e3
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for graphs, values in milliseconds.items():
        print(f"{'recorded' if graphs else 'launched'}: {statistics.median(values):.1f} ms a step")
    print(f"ratio {statistics.median(a / b for a, b in zip(*milliseconds.values(), strict=True)):.2f}")
    print(f"GPU busy in a launched step: {busy:.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
