"""Deepen a trained network: python -m release.grow STAGE1 STAGE2 OUT_DIR FIELD=VALUE…

    python -m release.grow inpainting-compact-stage1 inpainting-compact grown refinement_blocks=8

Each level keeps its blocks and gets new ones behind them whose projections are zero, so stage 2 restores as
before until it is trained on (`stage1=OUT_DIR/stage1.safetensors init=OUT_DIR/stage2.safetensors`, with
the same fields in the recipe's model).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from dirformer.networks.diffir import STAGES, DiffIR, DiffIRS1, start_at_identity
from dirformer.networks.dirformer import Block
from dirformer.weights.catalog import find_weights
from dirformer.weights.checkpoints import TEACHER, read_header, save
from dirformer.weights.load import load, load_teacher


def main(stage1: str, stage2: str, out: str, *fields: str) -> None:
    """Write the deepened stages, and check that they restore as before."""
    changes = {name: yaml.safe_load(value) for name, value in (field.split("=", 1) for field in fields)}
    write_teacher(find_weights(stage1), Path(out), changes)
    path = find_weights(stage2)
    small = load(path)
    large = deepened(small, changes)
    lq, prior = torch.rand(1, small.config.in_channels, 64, 64), torch.rand(1, small.config.prior_dim)
    with torch.no_grad():
        before, after = small.dirformer(lq, prior), large.dirformer(lq, prior)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    target, header = Path(out) / "stage2.safetensors", read_header(path)
    save(target, large, header.provenance, header.inference)
    print(f"{target}: {sum(p.numel() for p in large.parameters()):,} parameters")


def write_teacher(path: Path, out: Path, changes: dict[str, Any]) -> None:
    """Write the teacher of the deepened network: the same CPEN under the new config."""
    config, cpen, _ = load_teacher(path)
    with_new_config = DiffIRS1(replace(config, **_tuples(changes)))
    with_new_config.cpen.load_state_dict(cpen.state_dict())
    header = read_header(path)
    out.mkdir(parents=True, exist_ok=True)
    save(out / "stage1.safetensors", with_new_config, header.provenance, header.inference, part=TEACHER)


def _tuples(changes: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}


def deepened(model: DiffIR, changes: dict[str, Any]) -> DiffIR:
    """Return the network with more blocks, restoring as `model` does."""
    changes = _tuples(changes)
    torch.manual_seed(0)
    large = STAGES[model.stage](replace(model.config, **changes))
    start_at_identity(large)
    for module in large.modules():
        if isinstance(module, Block):
            torch.nn.init.zeros_(module.attention.project.weight)
            torch.nn.init.zeros_(module.feed_forward.project.weight)
    missing, superfluous = large.load_state_dict(model.state_dict(), strict=False)
    if superfluous:
        raise SystemExit(f"expected more blocks than before and nothing else; {superfluous[0]} has no place")
    print(f"{len(missing)} new tensors")
    return large.eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
