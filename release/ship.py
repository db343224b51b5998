"""Take a trained stage-2 network into the package: python -m release.ship NAME STAGE2 DATA NOTE [JUDGE]

Scores the network and the shipped one on the model's fixed validation set. Writes a file into the
package if it is clearly better. JUDGE says by what: `dB` (default, 0.05 more), `stlpips` (0.005 less; sharp
models and inpainting), or `mild` (the mean gain over doing nothing in the table of light damage, 0.05 dB).
Every leg, taken or not, goes into docs/reports/models/legs.jsonl; `release.cards` then writes the cards.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from dirformer.evaluation.results import interval95
from dirformer.evaluation.run import evaluate
from dirformer.experiments.validation import Validation
from dirformer.ground.errors import CheckpointError
from dirformer.metrics.perceptual import stlpips
from dirformer.networks.diffir import DiffIR
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import Weights, save
from dirformer.weights.load import open_weights
from release.pack import storage
from release.places import REPORTS, WEIGHTS
from release.testsets import validation

MARGIN = {"dB": 0.05, "stlpips": 0.005, "mild": 0.05}
PRIVATE = ("data", "stage1", "init", "transfer", "out")
"""Fields of a recipe that name places; they stay out of the package."""


def main(name: str, stage2: str, data: str, note: str, judge: str = "dB") -> None:
    """Score, decide, write; print what was decided."""
    cases, trained = validation(name, Path(data)), open_weights(Path(stage2))
    after = judged(judge, trained, cases, Path(data))
    before = None
    try:
        before = judged(judge, open_weights(find_weights(name)), cases, Path(data))
    except CheckpointError:
        print(f"{name} is not shipped yet")
    sign = -1 if judge == "stlpips" else 1
    taken = before is None or sign * (after - before) >= MARGIN[judge]
    print(f"{name} by {judge}: {after:.3f}, shipped {before} → {'taken' if taken else 'left'}")
    leg = {
        "model": name,
        "date": time.strftime("%Y-%m-%d"),
        "steps": {"stage 2": _steps(trained.header.provenance)},
        "score": {"dB": cases.score, "stlpips": "ST-LPIPS", "mild": "gain on light damage"}[judge],
        "before": before,
        "after": after,
        "taken": taken,
        "note": note,
    }
    with (REPORTS / "legs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(leg) + "\n")
    if taken:
        write(name, trained, cases)


def judged(judge: str, weights: Weights, cases: Validation, data: Path) -> float:
    """Return the score by which a network is judged."""
    if judge == "dB":
        return fmean(cases.scores(weights.model))
    if judge == "stlpips":
        return distance(cases, weights.model)
    result = evaluate(str(weights.path), None, data / "photos_val.txt", "mild", device="cpu")
    method = result["models"][-1]["model"]
    gains = [group["methods"][method].get("gain") for group in result["groups"]]
    return fmean(gain for gain in gains if gain is not None and math.isfinite(gain))


def write(name: str, trained: Weights, cases: Validation) -> None:
    """Write a network into the package, with what it says of itself."""
    scores, provenance = cases.scores(trained.model), trained.header.provenance
    facts: dict[str, Any] = {
        "licence": "Apache-2.0",
        "recipe": {k: v for k, v in provenance["recipe"].items() if k not in PRIVATE},
        "steps": _steps(provenance),
        "scores": {f"validation {cases.score}": fmean(scores), "interval95": interval95(scores)},
    }
    target = WEIGHTS / f"{name}.safetensors"
    save(target, trained.model, facts, trained.header.inference, dtype=storage(name))
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def _steps(provenance: dict[str, Any]) -> int:
    """Return the steps of a run's file (`step`) or of a shipped one."""
    return provenance["step"] if "step" in provenance else provenance["steps"]


def distance(cases: Validation, model: DiffIR) -> float:
    """Mean ST-LPIPS over the validation cases."""
    metric = stlpips()
    restored = (cases.restore(model, n) for n in range(len(cases.cases)))
    return fmean(metric(photo, case.gt[0]) for photo, case in zip(restored, cases.cases, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
