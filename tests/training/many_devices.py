"""Run recipes one after the other in the processes that torchrun started: python many_devices.py RECIPE...

A recipe whose name begins with `stopped` is interrupted before its last two steps and started again; behind
`leave:` it is interrupted and left so. In one whose name begins with `killed` a process ends itself. With
`torn` or `ruined` the second process goes on from files of its own, of which state.pt, or all, are damaged.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from dirformer.experiments.train import train
from dirformer.ground.errors import DirformerError
from dirformer.training import loop
from dirformer.training.config import TrainConfig, load_recipe

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
    died = Path(sys.argv[1]).with_suffix(".died")
    doomed = self.config.name.startswith("killed") and self.fabric.global_rank and not died.exists()
    if doomed and self.state.step == 2:
        # One process of two dies, once, as by a machine that is taken away.
        died.write_text(str(self.fabric.global_rank))
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(self, batch)


def damaged(config: TrainConfig, names: tuple[str, ...]) -> TrainConfig:
    """The recipe on a copy of its folder with damaged files, for the second process."""
    if os.environ["RANK"] == "0":
        return config
    own = config.model_copy(update={"out": config.out / "own"})
    shutil.copytree(config.folder, own.folder)
    for name in names:
        (own.folder / name).write_bytes(b"damaged")
    return own


loop.Run.train_step = stopping  # type: ignore[method-assign]
for name in sys.argv[1:]:
    left = name.startswith("leave:")
    config = load_recipe(name.removeprefix("leave:"))
    stopped, torn, ruined = (config.name.startswith(n) for n in ("stopped", "torn", "ruined"))
    if stopped or left or torn or ruined:
        stop_at = config.steps - 2
        try:
            loop.train(config)
        except StoppedError:
            stop_at = None
    if torn or ruined:
        config = damaged(config, ("state.pt", "good.pt") if ruined else ("state.pt",))
    try:
        if not left:
            train(config)
    except DirformerError as error:
        if not ruined:
            raise
        config.folder.with_suffix(f".error{os.environ['RANK']}").write_text(str(error))
