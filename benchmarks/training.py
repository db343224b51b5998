"""Speed of training on a CPU: a stage-2 step of ours against a textbook network, on this machine.

    python benchmarks/training.py                          # every model and way, with peak memory
    python benchmarks/training.py --quick --json out.json  # the compact SR model, plain against ours
    python benchmarks/training.py --compile                # also the ways that compile, minutes each
    python benchmarks/training.py --learn 300 --data DIR   # do the fast ways learn as well? same batches

A step is what stage 2 does: IPR of the teacher, T reverse steps, restoration, both losses, backward, Adam.
Process CPU time of one thread is the measure (wall time depends on who else works here); rounds interleave
(A B C A B C …), ratios are medians over them. Peak memory is that of two steps above the loaded networks,
gradients and Adam's averages included, each way in a process of its own. Weights and photos are random where
nothing is learnt: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from plain import PlainDIRformer
from torch import Tensor
from torch.nn import functional as F

from dirformer.kernels.autograd import install
from dirformer.networks.diffir import DiffIRS1, DiffIRS2, start_at_identity
from dirformer.networks.dirformer import Level
from dirformer.networks.presets import PRESETS, preset

# Photos per step, side of their LQ patches, rounds.
SIZES = {"sr-x4-compact": (8, 48, 7), "sr-x4": (1, 48, 3), "deblurring": (1, 128, 3)}
COMPACT = (8, 48, 5)  # of other models
LARGE, LARGE_SR = (1, 128, 3), (1, 48, 3)


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    plain: bool
    low: bool = False
    channels_last: bool = False
    recompute: bool = False
    compiled: bool = False


WAYS = {
    "plain": Way(plain=True),
    "plain channels-last": Way(plain=True, channels_last=True),
    "plain bf16": Way(plain=True, low=True),
    "plain compiled": Way(plain=True, compiled=True),
    "plain compiled bf16": Way(plain=True, compiled=True, low=True),
    "ours": Way(plain=False),
    "ours bf16": Way(plain=False, low=True),
    "ours bf16 recompute": Way(plain=False, low=True, recompute=True),
    "ours compiled bf16": Way(plain=False, low=True, compiled=True),
}


class Trainer:
    """One model and its optimiser, stepping in one way."""

    def __init__(self, way: Way, teacher: DiffIRS1, model: DiffIRS2, rate: float = 1e-5) -> None:
        self.low, self.teacher, self.model = way.low, teacher.cpen, copy.deepcopy(model)
        for module in self.model.modules():
            if isinstance(module, Level):
                module.recompute = way.recompute
        if way.plain:
            self.model.dirformer = PlainDIRformer(self.model.dirformer)
        else:
            install(self.model)
        self.layout = torch.channels_last if way.channels_last else torch.contiguous_format
        self.model.to(memory_format=self.layout)
        if way.compiled:
            self.model.dirformer.compile()
        self.adam = torch.optim.Adam(self.model.parameters(), rate, betas=(0.9, 0.99))

    def step(self, lq: Tensor, gt: Tensor, noise: Tensor) -> float:
        lq = lq.contiguous(memory_format=self.layout)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            with torch.no_grad():
                prior = self.teacher(lq, gt).float()
            restored, estimates = self.model.restore_and_estimate(lq, prior, noise)
            image = F.l1_loss(restored.float(), gt)
            loss = image + F.l1_loss(estimates[-1].float(), prior)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return image.item()


def networks(name: str) -> tuple[DiffIRS1, DiffIRS2]:
    torch.manual_seed(0)
    teacher, model = DiffIRS1(preset(name)), DiffIRS2(preset(name))
    for network in (teacher, model):
        start_at_identity(network)
    model.start_from(teacher)
    return teacher.requires_grad_(requires_grad=False), model


def sizes(arguments: argparse.Namespace, name: str) -> tuple[int, int, int]:
    other = COMPACT if "compact" in name else LARGE if preset(name).scale == 1 else LARGE_SR
    batch, patch, rounds = SIZES.get(name, other)
    return arguments.batch or batch, arguments.patch or patch, arguments.rounds or rounds


def random_batch(model: DiffIRS2, batch: int, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side = patch * model.config.scale
    lq = torch.rand(batch, model.config.in_channels, patch, patch, generator=generator)
    gt = torch.rand(batch, 3, side, side, generator=generator)
    count, numbers = model.noise_shape
    return lq, gt, torch.randn(count, batch, numbers, generator=generator)


def measure(name: str, ways: list[str], batch: int, patch: int, rounds: int) -> list[dict[str, Any]]:
    """Let the ways step in turn; a record each, ratios against the first."""
    teacher, model = networks(name)
    sample = random_batch(model, batch, patch)
    runs: dict[str, Callable[[], float]] = {}
    preparation = {}
    for way in ways:
        trainer = Trainer(WAYS[way], teacher, model)
        runs[way] = lambda trainer=trainer: trainer.step(*sample)
        started = time.perf_counter()
        runs[way]()
        preparation[way] = time.perf_counter() - started
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in runs.items():
            started = time.process_time()
            run()
            times[way].append(time.process_time() - started)
    return [
        {
            "model": name,
            "way": way,
            "batch": batch,
            "patch": patch,
            "cpu_s": statistics.median(taken),
            "images_per_s": batch / statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(times[ways[0]], taken, strict=True)),
            "first_step_s": preparation[way],
        }
        for way, taken in times.items()
    ]


PEAK = """
import sys
sys.path.insert(0, {folder!r})
import torch
from training import WAYS, Trainer, networks, random_batch
torch.set_num_threads(1)
name, way, batch, patch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
teacher, model = networks(name)
trainer = Trainer(WAYS[way], teacher, model)
sample = random_batch(model, batch, patch)
del model
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
for _ in range(2):
    trainer.step(*sample)
print((status("VmHWM") - before) / 1024)
"""


def peak_mib(name: str, way: str, batch: int, patch: int) -> float:
    """Peak resident memory above the process with both networks loaded, in a process of its own (Linux)."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK.format(folder=str(Path(__file__).parent))]
    command += [name, way, str(batch), str(patch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


# ---------------------------------------------------------------------------------------------- learning


def crops(photos: list[Tensor], batch: int, side: int, seed: int) -> Iterator[Tensor]:
    """Batches of random crops, the same for every way."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    while True:
        chosen = [photos[draw(len(photos))] for _ in range(batch)]
        corners = [(draw(p.shape[1] - side + 1), draw(p.shape[2] - side + 1)) for p in chosen]
        parts = [p[:, y : y + side, x : x + side] for p, (y, x) in zip(chosen, corners, strict=True)]
        yield torch.stack(parts).float() / 255


def degrade(gt: Tensor, scale: int) -> Tensor:
    """Bicubic reduction; at scale 1 a blur stands in, so that there is something to restore."""
    small = F.interpolate(gt, scale_factor=1 / (scale if scale > 1 else 2), mode="bicubic", antialias=True)
    return small if scale > 1 else F.interpolate(small, scale_factor=2.0, mode="bicubic")


def learn(
    name: str, ways: list[str], steps: int, folder: Path, batch: int, patch: int
) -> list[dict[str, Any]]:
    """Train each way from the same start on the same batches; image loss by tens of steps, then PSNR."""
    side = patch * preset(name).scale
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"})
    arrays = (np.array(Image.open(p).convert("RGB")) for p in files)
    photos = [torch.from_numpy(a).movedim(2, 0) for a in arrays if min(a.shape[:2]) >= side]
    held_out, photos = photos[::8], [p for i, p in enumerate(photos) if i % 8]
    records = []
    for way in ways:
        teacher, model = networks(name)
        trainer = Trainer(WAYS[way], teacher, model, rate=4e-4)
        noise = torch.Generator().manual_seed(1)
        source, losses = crops(photos, batch, side, seed=2), []
        count, numbers = model.noise_shape
        for step in range(steps):
            trainer.adam.param_groups[0]["lr"] = 4e-4 * (1 - step / steps)
            gt = next(source)
            z = torch.randn(count, batch, numbers, generator=noise)
            losses.append(trainer.step(degrade(gt, model.config.scale), gt, z))
        errors, tests = [], crops(held_out, 8, side, seed=3)
        with torch.inference_mode():
            for gt in (next(tests) for _ in range(4)):
                z = torch.randn(count, 8, numbers, generator=noise)
                restored = trainer.model(degrade(gt, model.config.scale), z)
                errors += (restored.clamp(0, 1) - gt).square().mean((1, 2, 3)).tolist()
        psnr = statistics.mean(-10 * float(np.log10(e)) for e in errors)
        curve = [statistics.mean(losses[i : i + 10]) for i in range(0, steps, 10)]
        last = statistics.mean(losses[-50:])
        records.append(
            {"model": name, "way": way, "steps": steps, "curve": curve, "last_50": last, "psnr": psnr}
        )
        print(f"  {way:20} loss {curve[0]:.4f} → {last:.4f} (last 50)  PSNR {psnr:.3f} dB", flush=True)
    return records


def show(record: dict[str, Any]) -> None:
    print(
        f"  {record['way']:20} {record['cpu_s']:7.2f} CPU s {record['images_per_s']:8.2f} images/s"
        f"  ×{record['ratio']:.2f}"
        + (f"  {record['peak_mib']:6.0f} MiB ({record['peak_share']:.2f})" if "peak_mib" in record else ""),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the compact SR model, plain against ours in bf16"
    )
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--model", action="append", choices=PRESETS, help="only these presets")
    parser.add_argument("--way", action="append", choices=WAYS, help="only these ways, after plain")
    parser.add_argument("--compile", action="store_true", help="also the ways that compile")
    parser.add_argument("--batch", type=int, help="photos per step")
    parser.add_argument("--patch", type=int, help="side of an LQ patch")
    parser.add_argument("--rounds", type=int, help="rounds per model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--learn", type=int, help="instead of timing, train each way for so many steps")
    parser.add_argument("--data", type=Path, help="folder of photos to learn on")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    default = [way for way in WAYS if arguments.compile or not WAYS[way].compiled]
    ways = ["plain", "ours bf16"] if arguments.quick else ["plain", *(arguments.way or default)]
    ways = list(dict.fromkeys(ways))
    records = []
    models = ["sr-x4-compact"] if arguments.quick else arguments.model or list(SIZES)
    for name in models:
        batch, patch, rounds = sizes(arguments, name)
        print(f"{name}, {batch} × {patch}²", flush=True)
        if arguments.learn:
            if arguments.data is None:
                parser.error("--learn needs --data, a folder of photos")
            records += learn(name, ways, arguments.learn, arguments.data, batch, patch)
            continue
        taken = measure(name, ways, batch, patch, 3 if arguments.quick else rounds)
        for record in taken:
            if not (arguments.quick or arguments.no_memory):
                record["peak_mib"] = peak_mib(name, record["way"], batch, patch)
                record["peak_share"] = record["peak_mib"] / taken[0]["peak_mib"]
            show(record)
        records += taken
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
        arguments.json.write_text(
            json.dumps({"schema": 1, "machine": machine, "records": records}, indent=2) + "\n"
        )
    if not arguments.learn:
        print(f"{records[-1]['model']}, {records[-1]['way']}: ratio {records[-1]['ratio']:.2f}")


if __name__ == "__main__":
    main()
