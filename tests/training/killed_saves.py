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
from dirformer.weights.load import load

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
config, times = load_recipe(sys.argv[1]), int(sys.argv[2])
run = loop.Run(config, devices.open_fabric(config), print)
run.state.resume(print)
run.train_step(next(iter(run.batches())))
run.state.save(good=True)
moments = random.Random(0)
for _ in range(times):
    before = run.state.step
    start = time.monotonic()
    run.state.save(good=True)
    save_takes = time.monotonic() - start
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        while True:  # steps without the work between saves
            run.state.step += 1
            run.state.save(good=True)
            os.write(writing, b".")
    # At least one save is whole, however slow the machine is; the kill comes within one of the next.
    for _ in range(moments.randint(1, 2)):
        os.read(reading, 1)
    time.sleep(moments.uniform(0, 1.5 * save_takes))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    for name in ("state.pt", "good.pt"):
        state = torch.load(config.folder / name, weights_only=True)
        assert set(state) >= {"step", "generator", "ema"}
        assert state["step"] > before, "the save before the kill is lost"
    load(config.folder / "last.safetensors")
print(f"{times} kills")
