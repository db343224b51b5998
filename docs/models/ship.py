"""Take a trained network into the package: python docs/models/ship.py NAME STAGE1 STAGE2 DATA

Scores both stages on the fixed validation photos and the benchmark sets, and writes float16 files into
the package if stage 2 is at least 0.05 dB better on the validation photos than what is shipped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from dirformer.catalog import find_weights
from dirformer.checkpoints import load, read_header, save
from dirformer.errors import CheckpointError
from dirformer.evaluation.metrics import psnr, rgb_to_y, ssim
from dirformer.evaluation.run import interval95
from dirformer.evaluation.validation import Validation
from dirformer.inference.restorer import Restorer, pad_to_multiple
from dirformer.networks.diffir import DiffIR, DiffIRS1
from dirformer.photo import read_rgb
from dirformer.training.config import load_recipe

MARGIN = 0.05
WEIGHTS = Path(__file__).parents[2] / "src" / "dirformer" / "weights"


def main(name: str, stage1: str, stage2: str, data: str) -> None:
    recipe = load_recipe(f"{name}-stage2", [f"data.val={data}/photos_val.txt"])
    validation = Validation(recipe)
    models: dict[int, DiffIR] = {1: load(Path(stage1)), 2: load(Path(stage2))}
    before = None
    try:
        before = validation(load(find_weights(name)))["psnr_y"]
    except CheckpointError:
        print(f"{name} is not shipped yet")
    scores: dict[int, dict[str, Any]] = {
        s: {"photos_val": validation(m)["psnr_y"]} for s, m in models.items()
    }
    now = scores[2]["photos_val"]
    oracle = scores[1]["photos_val"]
    print(f"validation photos, PSNR-Y: stage 1 {oracle:.3f}, stage 2 {now:.3f}, shipped {before}")
    if before is not None and now < before + MARGIN:
        print(f"not shipped: less than {MARGIN} dB better")
        return
    for benchmark in ("Set5", "BSD100"):
        for stage, model in models.items():
            path = Path(stage1 if stage == 1 else stage2)
            scores[stage][benchmark] = score(model, path, Path(data) / benchmark)
            print(benchmark, f"stage {stage}", scores[stage][benchmark])
    for stage, source in ((1, stage1), (2, stage2)):
        provenance = read_header(Path(source))["provenance"]
        shown = {k: v for k, v in provenance["recipe"].items() if k not in ("data", "stage1", "init", "out")}
        target = WEIGHTS / f"{name}{'-stage1' if stage == 1 else ''}.safetensors"
        facts = {
            "licence": "Apache-2.0",
            "recipe": shown,
            "steps": provenance["step"],
            "scores": scores[stage],
            "validation_before": before,
        }
        save(target, models[stage], facts, dtype=torch.float16)
        print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


@torch.inference_mode()
def score(model: DiffIR, path: Path, folder: Path) -> dict[str, Any]:
    """PSNR-Y and SSIM-Y, 4 px border, of the stage's own restoration: stage 1 sees the GT, an oracle."""
    restorer = None if isinstance(model, DiffIRS1) else Restorer(path, device="cpu")
    rows = []
    for gt_path in sorted((folder / "HRx4").iterdir()):
        gt, lq = (read_rgb(p).float() / 255 for p in (gt_path, folder / "LRx4" / gt_path.name))
        if restorer is None:
            multiple, (height, width) = model.config.multiple, gt.shape[1:]
            pair = (pad_to_multiple(x[None], multiple * k) for x, k in ((lq, 1), (gt, model.config.scale)))
            restored = model(*pair)[0, :, :height, :width]
        else:
            restored = restorer.restore(lq)
        restored = (restored.clamp(0, 1) * 255).round() / 255
        result, target = rgb_to_y(restored), rgb_to_y(gt)
        rows.append((psnr(result, target, 4), ssim(result, target, 4)))
    values, similarities = zip(*rows, strict=True)
    return {
        "psnr_y": sum(values) / len(values),
        "psnr_y_interval95": interval95(list(values)),
        "ssim_y": sum(similarities) / len(similarities),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
