"""Take a trained network into the package: python -m release.ship NAME STAGE1 STAGE2 DATA [NOTE [CONTEXT]]

Scores both stages on the model's fixed validation set and writes float16 files into the package if stage 2 is
at least 0.05 dB better than what is shipped. An adversarial variant (`NAME-gan`) is judged by ST-LPIPS.
Every leg, taken or not, goes into docs/reports/models/legs.jsonl; `release.cards` then writes the cards.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from dirformer.evaluation.results import interval95
from dirformer.experiments.validation import Validation
from dirformer.ground.errors import CheckpointError
from dirformer.metrics.perceptual import stlpips
from dirformer.networks.diffir import DiffIR
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import Header, Inference, read_header, save
from dirformer.weights.load import load
from release.places import REPORTS, WEIGHTS
from release.testsets import validation

MARGIN = {"dB": 0.05, "st-lpips": 0.005}


def main(name: str, stage1: str, stage2: str, data: str, note: str = "", context: str | None = None) -> None:
    plain = name.removesuffix("-gan")
    cases = validation(plain, Path(data))
    unit = "st-lpips" if name.endswith("-gan") else "dB"
    models: dict[int, DiffIR] = {1: load(Path(stage1)), 2: load(Path(stage2))}
    scores = {stage: cases.scores(model) for stage, model in models.items()}
    judged = fmean(scores[2]) if unit == "dB" else -distance(cases, models[2])
    before = None
    try:
        shipped = load(find_weights(name))
        before = fmean(cases.scores(shipped)) if unit == "dB" else -distance(cases, shipped)
    except CheckpointError:
        print(f"{name} is not shipped yet")
    taken = before is None or judged >= before + MARGIN[unit]
    print(
        f"{cases.score}: stage 1 {fmean(scores[1]):.3f}, stage 2 {fmean(scores[2]):.3f}; "
        f"judged by {unit}: {judged:.3f}, shipped {before} → {'taken' if taken else 'left'}"
    )
    headers = {stage: read_header(Path(path)) for stage, path in ((1, stage1), (2, stage2))}
    provenance = {stage: header.provenance for stage, header in headers.items()}
    leg = {
        "model": name,
        "date": time.strftime("%Y-%m-%d"),
        "steps": {f"stage {stage}": _steps(p) for stage, p in provenance.items()},
        "score": cases.score if unit == "dB" else "ST-LPIPS",
        "before": before if before is None or unit == "dB" else -before,
        "after": judged if unit == "dB" else -judged,
        "taken": taken,
        "note": note,
    }
    with (REPORTS / "legs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(leg) + "\n")
    if not taken:
        return
    gap = [a - b for a, b in zip(scores[1], scores[2], strict=True)]
    for stage, model in models.items():
        target = WEIGHTS / f"{name}{'-stage1' if stage == 1 else ''}.safetensors"
        if stage == 1 and (unit != "dB" or Path(stage1).resolve() == target):
            continue  # the teacher lies there already
        recipe = provenance[stage]["recipe"]
        facts: dict[str, Any] = {
            "licence": "Apache-2.0",
            "recipe": {
                k: v for k, v in recipe.items() if k not in ("data", "stage1", "init", "transfer", "out")
            },
            "steps": _steps(provenance[stage]),
            "scores": {
                f"validation {cases.score}": fmean(scores[stage]),
                "interval95": interval95(scores[stage]),
                "oracle_minus_stage2": {"mean": fmean(gap), "interval95": interval95(gap)},
            },
            "validation_before": before,
        }
        save(target, model, facts, _inference(headers[stage], context), dtype=torch.float16)
        print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def _steps(provenance: dict[str, Any]) -> int:
    """Return the steps of a run's file (`step`) or of a shipped one."""
    return provenance["step"] if "step" in provenance else provenance["steps"]


def _inference(header: Header, context: str | None) -> Inference:
    """Return what the header says, but for a context that is asked for."""
    return header.inference if context is None else replace(header.inference, context=context)


def distance(cases: Validation, model: DiffIR) -> float:
    """Mean ST-LPIPS over the validation cases."""
    metric = stlpips()
    restored = (cases.restore(model, n) for n in range(len(cases.cases)))
    return fmean(metric(photo, case.gt[0]) for photo, case in zip(restored, cases.cases, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
