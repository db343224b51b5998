"""What the IPR is worth in each shipped model: python -m release.worth DATA NAME stage1=FILE [KEY=VALUE...]

Trains the sweep `worth` from a model's stage 1; writes docs/reports/models/worth/NAME.json, which the cards
show: the estimate by diffusion, by CPEN alone, one learned vector for all photos, and stage 1, which sees the
clean photo.
`stage1=FILE` names a whole stage-1 network of the model (train NAME-stage1). All rows start there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dirformer.experiments.sweeps import Sweep
from dirformer.tasks import TASKS
from dirformer.weights.catalog import CATALOG
from release.places import REPORTS
from release.run import real_blur
from release.testsets import PAIRED, validation_overrides

STEPS = 300


def compare(name: str, data: Path, overrides: list[str]) -> None:
    """Train and score the rows of a model; write its table."""
    x4 = CATALOG[name].scale == 4
    fields = [
        f"recipe={name}-stage2",
        f"oracle.recipe={name}-stage1",
        f"data.train={data}/photos",
        f"data.patch={32 if x4 else 64}",
        "data.progressive=[]",
        "data.batch=4",
        f"data.val_crop={192 if x4 else 256}",
        "optimiser.kind=adam",
        "optimiser.lr=5e-4",
        f"steps={STEPS}",
        f"val_every={STEPS}",
        f"out=runs/worth/{name}",
        *validation_overrides(name, data),
    ]
    fields += real_blur(data) if CATALOG[name].task in PAIRED else []
    fields += ["data.masks=[scratches,thin,thick]"] if TASKS[CATALOG[name].task].has_mask else []
    result = Sweep("worth", [*fields, *overrides]).run()
    result |= {"steps": STEPS}
    path = REPORTS / "worth" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(data: str, *arguments: str) -> None:
    overrides = [a for a in arguments if "=" in a]
    stage1 = next((a.partition("=")[2] for a in overrides if a.startswith("stage1=")), None)
    if stage1 is None:
        raise SystemExit("no stage1=FILE is given; train one with: dirformer train NAME-stage1")
    for name in (a for a in arguments if "=" not in a):
        compare(name, Path(data), [*overrides, f"oracle.init={stage1}"])


if __name__ == "__main__":
    main(*sys.argv[1:])
