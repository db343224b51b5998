"""Tiny data sets in the layouts of the published ones, and what a table of the paper is filled with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dirformer.evaluation.needs import find_place
from dirformer.evaluation.paper import TABLES, Case
from dirformer.networks.config import ModelConfig
from dirformer.networks.diffir import DiffIRS1
from dirformer.weights.checkpoints import save
from evaluation.conftest import TINY, save_image, scene, tiny_model
from metrics.test_perceptual import inception, save_backbone

# What a set's own archive calls the LQ and the GT of its photos, below the folder that it is unpacked in.
ARCHIVES = {
    "GoPro": [
        (f"GoPro/test/GOPR0384_11_0{n}/blur/000001.png", f"GoPro/test/GOPR0384_11_0{n}/sharp/000001.png")
        for n in (0, 5)
    ],
    "HIDE": [
        ("HIDE/test/test-close-ups/5fromGOPR0950.png", "HIDE/GT/5fromGOPR0950.png"),
        ("HIDE/test/test-long-shot/103fromGOPR1096.png", "HIDE/GT/103fromGOPR1096.png"),
    ],
    "RealSRSet": [
        (f"RealSR/{camera}/Test/4/{camera}_001_LR4.png", f"RealSR/{camera}/Test/4/{camera}_001_HR.png")
        for camera in ("Canon", "Nikon")
    ],
    "NTIRE2020-Track1": [
        (f"NTIRE2020/Corrupted-va-x/080{n}.png", f"NTIRE2020/DIV2K_valid_HR/080{n}.png") for n in (1, 2)
    ],
}
MODELS = {
    "inpainting": {"task": "inpainting", "skip": "none", "refinement_blocks": 0},
    "sr-x4": {"task": "sr", "scale": 4, "tail": "direct"},
    "realsr-x4": {"task": "realsr", "scale": 4, "tail": "direct"},
    "deblurring": {"task": "deblurring"},
}


def layouts(case: Case) -> int:
    """How many layouts a case has, its archive included."""
    return len(case.layouts) + (case.archive is not None)


def variants(target: str) -> int:
    """How many trees it takes to see every layout of every case of a table."""
    return max(layouts(case) for case in TABLES[target].cases)


def tree(root: Path, target: str, variant: int = 0) -> None:
    """Write two photos per case, in the layout of that number (counted on from the first one again)."""
    for case in TABLES[target].cases:
        number = variant % layouts(case)
        scale = 4 if case.preset.endswith("x4") else 1
        for seed, (lq, gt, mask) in enumerate(_files(case, number)):
            photo = scene(seed, 64, 80)
            save_image(root / gt, photo)
            if mask is None:
                small = photo.reshape(64 // scale, scale, 80 // scale, scale, 3).mean((1, 3))
                save_image(root / lq, small.astype(np.uint8))
            else:
                hole = np.zeros((64, 80), np.uint8)
                hole[20:40, 20:50] = 255
                save_image(root / mask, hole)


def _files(case: Case, number: int) -> Iterator[tuple[str, str, str | None]]:
    if number == len(case.layouts):
        yield from ((lq, gt, None) for lq, gt in ARCHIVES[case.name])
        return
    lq, gt = case.layouts[number]
    for seed in range(2):
        name = f"p{seed}"
        if not case.masks:
            # EDSR's benchmarks and DIV2K name the LQ photo after the scale.
            yield f"{lq}/{name}{'x4' if lq.endswith('bicubic/X4') else ''}.png", f"{gt}/{name}.png", None
        elif case.masks[number] == gt:
            name += "_crop000"  # as LaMa's script cuts them
            yield f"{lq}/{name}.png", f"{gt}/{name}.png", f"{gt}/{name}_mask000.png"
        else:
            yield f"{lq}/{name}.png", f"{gt}/{name}.png", f"{case.masks[number]}/{name}.png"


def finished(root: Path, target: str, out: Path) -> Path:
    """Write results of another method for all photos of a tree, at the size of the GT."""
    for case in TABLES[target].cases:
        place = find_place(case, root)
        assert place is not None, case.name
        for number, sample in enumerate(place.samples):
            save_image(out / f"{sample.name}.png", scene(number, 64, 80)[:, ::-1].copy())
    return out


def model_for(preset: str, folder: Path) -> str:
    """Write a tiny network that can stand for a preset."""
    return str(tiny_model(folder / f"{preset}.safetensors", **MODELS[preset]))


def stage1_for(preset: str, folder: Path) -> str:
    """Write a tiny stage-1 network that can stand for a preset."""
    torch.manual_seed(1)
    save(folder / "s1.safetensors", DiffIRS1(ModelConfig.from_dict(TINY | MODELS[preset])))
    return str(folder / "s1.safetensors")


def backbones(folder: Path) -> Path:
    """Write random weights of every learned score, in files with the published names and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    for net, widths in (("alex", (4, 6, 8, 6, 5)), ("vgg", (4, 5, 6, 7, 8))):
        save_backbone(folder, net)
        heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}
        torch.save(heads, folder / f"lpips_{net}.pth")
    torch.save({k: torch.rand(1, 33, 1, 1) for k in ("alpha", "beta")}, folder / "dists.pt")
    torch.save(inception().state_dict(), folder / "pt_inception-2015-12-05-6726825d.pth")
    return folder
