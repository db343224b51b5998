"""Store shipped weights in 8 bits: python -m release.pack NAME...

Half the file of float16. What it costs is measured by `release.cards`, which must be run afterwards. Models
whose result for a clean photo must not move (×1) stay float16: there 8 bits cost 0.05 to 0.1 dB.
"""

from __future__ import annotations

import sys

import torch

from dirformer.networks.diffir import DiffIR, DiffIRS1
from dirformer.weights import checkpoints
from release.places import WEIGHTS

PACKED = (
    "sr-x4-compact",
    "realsr-x4-compact",
    "realsr-x4-compact-sharp",
    "deblurring-compact",
    "inpainting-compact",
)
"""Models that are shipped in 8 bits."""
TEACHERS = tuple(
    f"{name}-stage1"
    for name in (
        "sr-x4-compact",
        "realsr-x4-compact",
        "realsr-x1-compact",
        "deblurring-compact",
        "inpainting-compact",
    )
)
"""What stage 2 is fine-tuned against; all of them are shipped in 8 bits."""


def storage(name: str) -> torch.dtype:
    """Return how the weights of a shipped model are stored."""
    return torch.int8 if name in PACKED else torch.float16


def main(*names: str) -> None:
    """Write the files anew; weights that are packed already do not change."""
    for name in names or (*PACKED, *TEACHERS):
        path = WEIGHTS / f"{name}.safetensors"
        before, header = path.stat().st_size, checkpoints.read_header(path)
        if header.version == checkpoints.PACKED_FORMAT:
            print(f"{name} is packed already")
            continue
        if header.part == checkpoints.TEACHER:
            config, cpen, _ = checkpoints.read_teacher(path)
            model: DiffIR = DiffIRS1(config)
            model.cpen.load_state_dict(cpen.state_dict())
        else:
            model = checkpoints.read(path).model
        checkpoints.save(path, model, header.provenance, header.inference, dtype=torch.int8, part=header.part)
        print(f"{name}: {before / 1e6:.2f} MB → {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
