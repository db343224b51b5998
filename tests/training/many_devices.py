"""Run recipes one after the other in the processes that torchrun started: python many_devices.py RECIPE...

A recipe whose name begins with `stopped` is interrupted before its last two steps and started again; in one
whose name begins with `killed` a process ends itself.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any

import torch

from dirformer.training import loop
from dirformer.training.config import load_recipe

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
train_step = loop.Run.train_step
stop_at: int | None = None


class StoppedError(Exception):
    pass


def stopping(self: Any, batch: dict[str, Any]) -> dict[str, float]:
    if self.state.step == stop_at:
        raise StoppedError
    if (
        self.config.name.startswith("poisoned")
        and self.state.step == 2
        and not self.state.rollbacks
        and self.fabric.global_rank
    ):
        # Only one device of two sees a loss that is not finite.
        batch["gt"] = batch["gt"] * float("nan")
    died = self.config.folder.with_suffix(".died")
    doomed = self.config.name.startswith("killed") and self.fabric.global_rank and not died.exists()
    if doomed and self.state.step == 2:
        # One process of two dies, once, as by a machine that is taken away.
        died.write_text(str(self.fabric.global_rank))
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(self, batch)


loop.Run.train_step = stopping  # type: ignore[method-assign]
for name in sys.argv[1:]:
    config = load_recipe(name)
    if config.name.startswith("stopped"):
        stop_at = config.steps - 2
        try:
            loop.train(config)
        except StoppedError:
            stop_at = None
    loop.train(config, (lambda *_: {"psnr_y": 20.0}) if config.name.startswith("validated") else None)
