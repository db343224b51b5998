"""What a run writes about itself: JSONL always, other curves where they are wanted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from dirformer.ground.errors import MissingExtraError
from dirformer.ground.journal import read_journal
from dirformer.training.logs import Log
from helpers import python, tiny_recipe


def test_curves_are_written_to_tensorboard(tmp_path: Path) -> None:
    """Numbers of a record are points of `kind/name` at its step; words are in the journal alone."""
    script = f"""
import warnings; warnings.simplefilter("ignore")
from pathlib import Path
from dirformer.training.config import TrainConfig
from dirformer.training.logs import Log
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
config = TrainConfig.model_validate(
    {{"name": "run", "stage": 1, "model": "sr-x4-compact", "out": {str(tmp_path)!r}, "log": ["tensorboard"]}})
log = Log(config)
for step in (1, 2):
    log.write("train", step, image=0.5 / step, reason="none")
log.close()
events = EventAccumulator(str(config.folder / "tensorboard")); events.Reload()
print(events.Tags()["scalars"], [(e.step, e.value) for e in events.Scalars("train/image")])
"""
    pytest.importorskip("tensorboard")
    done = python("-c", script)
    assert done.stdout.strip() == "['train/image'] [(1, 0.5), (2, 0.25)]", done.stderr[-2000:]
    records = list(read_journal(tmp_path / "run" / "journal.jsonl"))
    assert [(r["kind"], r["step"], r["image"], r["reason"]) for r in records] == [
        ("train", 1, 0.5, "none"),
        ("train", 2, 0.25, "none"),
    ]


def test_tensorboard_is_used_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word in the recipe a missing TensorBoard is no error; asked for, it is."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert Log(tiny_recipe(tmp_path / "photos", out=str(tmp_path), log=None)).curves == []
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"tensorboard is not installed.*dirformer\[train\]"):
        Log(tiny_recipe(tmp_path / "photos", out=str(tmp_path), log=["tensorboard"]))
    with pytest.raises(MissingExtraError, match=r"wandb is not installed.*dirformer\[wandb\]"):
        Log(tiny_recipe(tmp_path / "photos", out=str(tmp_path), log=["wandb"]))


def test_only_one_device_writes(tmp_path: Path) -> None:
    """The logs of the other devices leave nothing behind."""
    Log(tiny_recipe(tmp_path / "photos", out=str(tmp_path)), active=False).write("train", 1, image=0.5)
    assert not list(tmp_path.iterdir())
