"""What a GPU makes of this package, against plain PyTorch on the same GPU: one command, under four minutes.

    python benchmarks/gpu.py [--photos DIR] [--out FOLDER] [--minutes 3.5] [--rehearse]

Everything is paired in one run; medians. Three parts:

1. Inference: the textbook network (`plain.py`) in float32, TF32 and bfloat16 autocast, and the engine in all
   three and in 2 GiB. Milliseconds, peak memory beside the weights, PSNR to plain float32.
2. Exactness: the engine on the GPU, under PyTorch's own settings, against float64 on the CPU, whole and under
   a memory limit.
3. Training: milliseconds of a step, recorded (`graphs=true`) and launched one by one, by Triton's kernels and
   by stock torch; of super-resolution, and with real-world damage made in workers.

`--rehearse` runs every line of it on the CPU with tiny sizes: figures mean nothing then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from plain import PlainDIRformer
from torch import Tensor, nn

from dirformer import preset
from dirformer.inference.engine import Engine
from dirformer.kernels.build import SWITCH
from dirformer.kernels.precision import float32_products
from dirformer.networks.diffir import DiffIRS1, DiffIRS2
from dirformer.training.config import load_recipe
from dirformer.training.devices import open_fabric
from dirformer.training.trial import try_out
from dirformer.weights.checkpoints import save
from inference import make_case

CASES = (
    ("deblurring", 720, 1280),
    ("deblurring", 256, 256),
    ("sr-x4", 256, 256),
    ("realsr-x1-compact", 1088, 1920),
    ("deblurring", 2160, 3840),
)
WAYS = (
    "plain",
    "plain TF32",
    "plain bf16",
    "engine",
    "engine TF32",
    "engine bf16",
    "engine 2 GiB",
)
LARGE = 4_000_000
"""Pixels above which only the engine runs, under LIMIT: the others do not fit or take the time."""
LIMIT = 2**33
"""Bytes: 8 GiB."""


class Bench:
    """Where things run, what was found, and how much time is left."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.rehearse, self.out = arguments.rehearse, arguments.out
        self.device = torch.device("cpu" if self.rehearse else "cuda")
        self.end = time.monotonic() + 60 * arguments.minutes
        self.found: dict[str, Any] = {
            "torch": torch.__version__,
            "inference": {},
            "exactness": {},
            "training": {},
        }
        self.found["device"] = "cpu" if self.rehearse else torch.cuda.get_device_name()

    def left(self) -> float:
        return self.end - time.monotonic()

    def wait(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()

    def keep(self, part: str, name: str, value: Any) -> None:
        """Note a figure, print it, and write all so far: a run that is cut off leaves what it has."""
        self.found[part][name] = value
        print(f"{part}: {name}: {value}", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def timed(self, work: Callable[[], Tensor], seconds: float = 2.0) -> tuple[float, float, Tensor]:
        """Median milliseconds, peak MiB above what was there, and the result."""
        result = work()
        self.wait()
        base = 0
        if not self.rehearse:
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        times: list[float] = []
        start = time.monotonic()
        while len(times) < 2 or (time.monotonic() - start < seconds and len(times) < 30):
            before = time.perf_counter()
            work()
            self.wait()
            times.append(1e3 * (time.perf_counter() - before))
        peak = 0 if self.rehearse else torch.cuda.max_memory_allocated() - base
        return statistics.median(times), peak / 2**20, result


def network(name: str) -> DiffIRS2:
    """Random weights under which every part of the network matters."""
    return make_case(name, 32, 32).model


def way(kind: str, model: DiffIRS2, lq: Tensor, noise: Tensor) -> Callable[[], Tensor]:
    """Return one way to restore `lq`."""
    low = kind.endswith("bf16")
    if kind.startswith("engine"):
        tf32 = kind.endswith("TF32")
        limit = LIMIT if lq.shape[2] * lq.shape[3] > LARGE else 2**31 if "2 GiB" in kind else None
        precision = torch.bfloat16 if low else torch.float32
        engine = Engine(model, precision=precision, tf32=tf32, max_memory=limit)
        return lambda: engine.restore(lq, noise)
    dirformer: nn.Module = PlainDIRformer(model.dirformer) if kind.startswith("plain") else model.dirformer

    def run() -> Tensor:
        with torch.autocast(lq.device.type, torch.bfloat16, enabled=low):
            prior = model.estimate(model.cpen(lq), noise)[-1]
            return dirformer(lq, prior)

    return run


def inference(bench: Bench, name: str, height: int, width: int) -> None:
    model = network(name).to(bench.device)
    lq = torch.rand(1, model.config.in_channels, height, width, device=bench.device)
    noise = torch.randn(*model.noise_shape, device=bench.device)[:, None]
    row: dict[str, Any] = {}
    reference: Tensor | None = None
    for kind in WAYS:
        if bench.left() < 20 or (height * width > LARGE and not kind.startswith("engine")):
            continue
        # The engine sees to its products itself, whatever the process's are.
        own = kind.startswith("engine")
        products = nullcontext() if own else float32_products(bench.device, tf32=kind.endswith("TF32"))
        try:
            with torch.inference_mode(), products:
                milliseconds, mebibytes, result = bench.timed(way(kind, model, lq, noise))
        except torch.OutOfMemoryError:
            row[kind] = "out of memory"
            continue
        reference = result if reference is None else reference
        row[kind] = {
            "ms": round(milliseconds, 2),
            "mib": round(mebibytes),
            "db": round(decibels(result, reference), 1),
        }
        gc.collect()
        if not bench.rehearse:
            torch.cuda.empty_cache()
    bench.keep("inference", f"{name} {width}×{height}", row)


def decibels(result: Tensor, reference: Tensor) -> float:
    """PSNR to the reference, peak 1."""
    return float(-10 * torch.log10((result.float() - reference.float()).square().mean() + 1e-20))


def exactness(bench: Bench) -> None:
    """The engine here against the modules in float64 on the CPU: largest difference over the peak."""
    for name in ("deblurring", "sr-x4-compact", "realsr-x1-compact"):
        model = network(name)
        side = 32 if bench.rehearse else 96
        lq, noise = torch.rand(1, 3, side, side + 16), torch.randn(*model.noise_shape)[:, None]
        with torch.inference_mode():
            expected = model.double()(lq.double(), noise.double())
            model = model.float().to(bench.device)
            for limit in (None, 2**30):
                found = Engine(model, max_memory=limit).restore(lq.to(bench.device), noise.to(bench.device))
                difference = (found.cpu().double() - expected).abs().max() / expected.abs().max()
                label = "whole" if limit is None else "under 1 GiB"
                bench.keep("exactness", f"{name}, {label}", f"{float(difference):.1e}")


def training(bench: Bench, photos: Path, recipe: str, *fields: str) -> None:
    task = recipe.removesuffix("-stage2")
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "stage1.safetensors"
        save(teacher, DiffIRS1(preset(task)), {})
        for label, ways in (
            ("recorded", ["graphs=true"]),
            ("recorded, stock torch", ["graphs=true"]),
            ("launched", []),
            ("launched, stock torch", []),
        ):
            if bench.left() < 20 or (bench.rehearse and ways):
                continue
            os.environ[SWITCH] = "0" if "stock" in label else "1"
            config = load_recipe(
                recipe,
                [
                    f"data.train={photos}",
                    f"stage1={teacher}",
                    f"device={bench.device.type}",
                    "log=[]",
                    *fields,
                    *ways,
                ],
            )
            try:
                trial = try_out(config, open_fabric(config), 2 if bench.rehearse else 20)
            except Exception as error:  # noqa: BLE001 - one way that fails must not hide the others
                bench.keep("training", f"{recipe}, {label}", f"failed: {type(error).__name__}: {error}"[:200])
                continue
            step = trial.seconds * (1 - trial.data_wait)
            figures = {"ms": round(1e3 * step, 1), "images/s": round(config.data.batch / trial.seconds, 1)}
            bench.keep("training", f"{recipe}, {label}", figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, help="folder of photos for the training part; default: random ones"
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--minutes", type=float, default=3.5)
    parser.add_argument("--rehearse", action="store_true")
    bench = Bench(parser.parse_args())
    exactness(bench)
    for name, height, width in (("sr-x4-compact", 32, 32),) if bench.rehearse else CASES:
        inference(bench, name, height, width)
    with tempfile.TemporaryDirectory() as folder:
        photos = parser.parse_args().photos or random_photos(Path(folder))
        small = ["data.patch=16", "data.batch=2"] if bench.rehearse else ["data.patch=64", "data.batch=32"]
        workers = ["data.progressive=[]", "precision=bf16-mixed", "optimiser.kind=muon"]
        workers += [] if bench.rehearse else ["data.workers=8", "data.cache=2"]
        training(bench, photos, "sr-x4-compact-stage2", *small, *workers)
        graded = ["data.degradation=realsr-graded", "data.degrade_in=workers"]
        training(bench, photos, "realsr-x1-compact-stage2", *small, *workers, *graded)


def random_photos(folder: Path) -> Path:
    """Twelve pictures with detail at several scales."""
    for number in range(12):
        torch.manual_seed(number)
        layers = [
            nn.functional.interpolate(torch.rand(1, 3, 2**k, 2**k), (320, 320), mode="bicubic") / 2 ** (k / 2)
            for k in range(2, 9)
        ]
        pixels = torch.stack(layers).sum(0)[0]
        pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).byte()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return folder


if __name__ == "__main__":
    main()
