"""One leg of training of a shipped model: python -m release.run NAME DATA MINUTES (make train-compact)

Goes on from the shipped weights under the shipped teacher, and hands the best weights to `release.ship`,
which takes them in if they are clearly better.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dirformer.experiments.train import train
from dirformer.training.config import load_recipe
from dirformer.weights.catalog import CATALOG
from release import ship
from release.testsets import PAIRED, validation_overrides

RUNS = Path("runs/legs")


def main(name: str, data: str, minutes: str) -> None:
    fields = [f"data.train={data}/photos", f"out={RUNS}", *validation_overrides(name, Path(data))]
    if CATALOG[name].task in PAIRED:
        fields += real_blur(Path(data))
    fields += [f"stage1={name}-stage1", f"init={name}", f"name={name}"]
    train(load_recipe(f"{name}-stage2", fields), print, float(minutes))
    device = "GPU" if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    ship.main(name, str(best(name)), data, f"{minutes} minutes, {device}")


def best(run: str) -> Path:
    return RUNS / run / "best.safetensors"


def real_blur(data: Path) -> list[str]:
    """Return the fields that mix real blur in; write the list of pairs there are, GoPro's two ten times."""
    pairs = sorted((data / "deblur" / "train").glob("*/blur/*"))
    lines = [
        f"{p.resolve()}\t{(p.parents[1] / 'sharp' / p.name).resolve()}"
        for p in pairs
        for _ in range(10 if p.parents[1].name == "GoPro" else 1)
    ]
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [f"data.without={data}/photos_val.txt", f"data.pairs={RUNS}/pairs.txt", "data.pairs_share=0.2"]


if __name__ == "__main__":
    main(*sys.argv[1:])
