"""Kill a process that does nothing but save, again and again: python killed_saves.py RECIPE TIMES."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings

import torch

from dirformer.training import devices, loop
from dirformer.training.config import load_recipe
from dirformer.weights.checkpoints import load

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
config, times = load_recipe(sys.argv[1]), int(sys.argv[2])
run = loop.Run(config, devices.open_fabric(config), print)
run.state.resume(print)
run.train_step(next(iter(run.batches())))
run.state.save(good=True)
moments = random.Random(0)
seen = []
for _ in range(times):
    child = os.fork()
    if not child:
        while True:  # steps without the work between saves
            run.state.step += 1
            run.state.save(good=True)
    time.sleep(moments.uniform(0.02, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for name in ("state.pt", "good.pt"):
        state = torch.load(config.folder / name, weights_only=True)
        assert set(state) >= {"step", "generator", "ema"}
    load(config.folder / "last.safetensors")
    seen.append(state["step"])
print(f"{times} kills, step {max(seen)} reached")
