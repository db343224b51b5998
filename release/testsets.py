"""What shipped models are validated and tested on: sets that never change, made from the data folder.

    python -m release.testsets DATA     # writes the manifest of the validation sets

Validation decides which weights are kept; tests are what cards report. Both are made by the package's own
code from fixed seeds, so the manifest's digests hold anywhere.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dirformer.data.testsets import degrade_photos, mask_photos
from dirformer.experiments.validation import Case, Validation
from dirformer.training.config import load_recipe
from dirformer.weights.catalog import CATALOG
from release.places import REPORTS

OUT = Path("out/testsets")


@dataclass(frozen=True)
class TestSet:
    """One table of a card."""

    title: str
    lq: Path | None
    """None where the protocol makes it."""
    gt: Path
    protocol: str
    baselines: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    masks: Path | None = None


def validation(name: str, data: Path) -> Validation:
    """Return the fixed validation set of a model, as `make train-compact` uses it."""
    return Validation(load_recipe(f"{CATALOG[name].plain}-stage2", validation_overrides(name, data)))


def validation_overrides(name: str, data: Path) -> list[str]:
    """Return the fields of a recipe that choose the fixed validation set."""
    if CATALOG[name].task in PAIRED:
        return [f"data.val={data}/SynthShake_val/sharp", f"data.val_lq={data}/SynthShake_val/blur"]
    return [f"data.val={data}/photos_val.txt"]


def tests(name: str, data: Path) -> Iterator[TestSet]:
    """Yield the test sets of a model; those that are not files yet are made."""
    entry = CATALOG[name]
    yield from _TESTS[entry.task](data, entry.scale)


def _super_resolution(data: Path, scale: int) -> Iterator[TestSet]:
    for benchmark in ("Set5", "BSD100"):
        folder = data / benchmark
        lq, gt = folder / f"LRx{scale}", folder / f"HRx{scale}"
        yield TestSet(benchmark, lq, gt, "sr", ("bicubic", "lanczos"))


def _real_world(data: Path, scale: int) -> Iterator[TestSet]:
    photos, folder = data / "photos_val.txt", OUT / f"realsr-x{scale}"
    _drain(degrade_photos(photos, folder, "realsr", scale=scale, seed=0))
    baseline = "bicubic" if scale > 1 else "input"
    metrics = ("ssimulacra2", "flip", "stlpips", "niqe")
    yield TestSet("validation photos", folder / "lq", folder / "gt", "realsr", (baseline,), metrics)
    yield TestSet("validation photos, light damage", None, photos, "mild", (baseline,))


def _deblurring(data: Path, scale: int) -> Iterator[TestSet]:
    del scale
    shake, metrics = data / "SynthShake_val", ("psnr_matched",)
    yield TestSet("SynthShake_val", shake / "blur", shake / "sharp", "deblurring", ("input",), metrics)
    for part in ("GoPro", "REDS_003"):
        folder = data / "deblur" / "val" / part
        lq, gt = folder / "blur", folder / "sharp"
        yield TestSet(f"deblur/val {part}", lq, gt, "deblurring", ("input",), metrics)
    yield TestSet("Levin09", *_levin(data / "Levin09"), "deblurring", ("input",), ("psnr_shifted",))


def _inpainting(data: Path, scale: int) -> Iterator[TestSet]:
    del scale
    for kind in ("thick", "thin"):
        folder = OUT / f"inpainting-{kind}"
        _drain(mask_photos(data / "photos_val.txt", folder, kind, 256, seed=0))
        gt, title = folder / "gt", f"validation photos, {kind} masks"
        fills = ("telea", "smooth", "exemplar")
        yield TestSet(title, gt, gt, "inpainting", fills, ("stlpips",), folder / "masks")


_TESTS: dict[str, Callable[[Path, int], Iterator[TestSet]]] = {
    "sr": _super_resolution,
    "realsr": _real_world,
    "deblurring": _deblurring,
    "inpainting": _inpainting,
}
PAIRED = {"deblurring"}
"""Tasks whose validation photos come as pairs; for the others LQ is made from clean photos."""


def _levin(folder: Path) -> tuple[Path, Path]:
    """Return two folders with a sharp photo for each blurred one: `imI` belongs to `imI_kernelK`."""
    gt = OUT / "levin09"
    gt.mkdir(parents=True, exist_ok=True)
    for blurred in (folder / "blur").iterdir():
        sharp = next((folder / "sharp").glob(f"{blurred.stem.partition('_')[0]}.*"))
        (gt / blurred.name).write_bytes(sharp.read_bytes())
    return folder / "blur", gt


def _drain(records: Iterator[Any]) -> None:
    for record in records:
        if record.error is not None:
            raise record.error


def manifest(data: Path) -> dict[str, Any]:
    """Describe every validation case: photo, kind of mask, size and digest of the 8-bit GT, mean of the LQ.

    The LQ has no digest: transforms of its degradation differ in the last bits with the number of threads.
    """
    sets = {}
    for name in (name for name, entry in CATALOG.items() if name == entry.plain):
        cases = validation(name, data)
        sets[name] = {
            "score": cases.score,
            "seed": cases.seed,
            "cases": [
                {
                    "photo": case.name,
                    "gt": list(case.gt.shape[2:]),
                    **({"mask": case.kind} if case.kind else {}),
                    "sha256": _digest(case.gt),
                    "lq_mean": round(_mean(case), 4),
                }
                for case in cases.cases
            ],
        }
    return sets


def _mean(case: Case) -> float:
    seen = case.lq if case.mask is None else torch.cat([case.lq, case.mask], dim=1)
    return float(seen.double().mean())


def _digest(photo: Tensor) -> str:
    return hashlib.sha256((photo * 255).round().byte().numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    text = json.dumps(manifest(Path(sys.argv[1])), indent=1)
    (REPORTS / "validation.json").write_text(text + "\n", encoding="utf-8")
