"""Speed of the variants of the kernels in the wheel, and of an installed wheel against the source tree.

    python benchmarks/wheel.py                                # each variant against -march=native
    python benchmarks/wheel.py --wheel ENVIRONMENT/bin/python  # the wheel that it has, against this tree

Process CPU time of one thread; runs are interleaved, ratios are medians over the rounds, above 1 if
slower than the first. Restoring is sr-x4-compact 128×128; training is the
gradient of one of its blocks on 8 × 48².
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dirformer.inference.engine import Engine
from dirformer.kernels import autograd, native, variants
from dirformer.kernels.variants import Variant
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.dirformer import Block
from dirformer.networks.presets import preset

MODEL = "sr-x4-compact"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def restoring(precision: torch.dtype) -> Callable[[], object]:
    """One photo through the engine."""
    torch.manual_seed(0)
    model = DiffIRS2(preset(MODEL)).eval()
    engine = Engine(model, kernels=native.NativeKernels(precision), threads=1)
    photo, noise = torch.rand(1, 3, 128, 128), torch.randn(1, 1, model.config.prior_dim)
    return lambda: engine.restore(photo, noise)


def training(precision: torch.dtype) -> Callable[[], object]:
    """One block, there and back."""
    torch.manual_seed(0)
    config = preset(MODEL)
    block = Block(config, config.dim, config.heads[0])
    library, lanes = autograd._library, autograd._lanes
    autograd.install(block)
    x, prior = torch.randn(8, config.dim, 48, 48, requires_grad=True), torch.randn(8, config.prior_dim)

    def run() -> torch.Tensor:
        autograd._library, autograd._lanes = library, lanes
        x.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            y = block(x, prior)
        y.square().sum().backward()
        return x.grad

    return run


def make(variant: Variant, way: Callable, precision: torch.dtype) -> Callable[[], object]:
    """A way with the kernels of one variant, compiled into a folder for this process."""
    variants.fitting = lambda: (variant,)
    native.library = functools.cache(native.library.__wrapped__)
    autograd._library = functools.cache(autograd._library.__wrapped__)
    lanes = autograd._library().dirformer_lanes()  # loaded now, while `fitting` says which
    autograd._lanes = lambda: lanes
    return way(precision)


def compare_variants(rounds: int) -> None:
    shown = (Variant("-march=native", ("-march=native",), frozenset()), *variants.fitting())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for name, way in (("restoring", restoring), ("training", training)):
            for word, precision in PRECISIONS.items():
                low = precision == torch.bfloat16
                some = [v for v in shown if not low or v.name in {"-march=native", "x86-64-v4-bf16"}]
                runs = [make(v, way, precision) for v in some]
                results = [run() for run in runs]
                times = interleaved([functools.partial(cpu, run) for run in runs], rounds)
                for variant, spent, result in zip(some, times, results, strict=True):
                    same = "same bytes" if torch.equal(result, results[0]) else "other last bits"
                    report(f"{name} {word} {variant.name}", spent, times[0], same)


def cpu(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(measures: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    table = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(column) for column in zip(*table, strict=True)]


def report(name: str, spent: list[float], first: list[float], more: str = "") -> None:
    ratio = statistics.median(a / b for a, b in zip(spent, first, strict=True))
    print(f"{name:40} {1000 * statistics.median(spent):8.1f} ms  {ratio:.3f}  {more}", flush=True)


def worker() -> None:
    """Print the time of restoring each time a line comes in."""
    run = restoring(torch.float32)
    run()
    for _ in sys.stdin:
        print(cpu(run), flush=True)


def compare_installed(python: str, rounds: int) -> None:
    places = {"source": sys.executable, "wheel": python}
    processes = []
    for name, program in places.items():
        changes = {"PYTHONPATH": str(Path(native.__file__).parents[2]) if name == "source" else ""}
        command = [program, __file__, "--worker"]
        processes.append(
            subprocess.Popen(
                command,
                env=os.environ | changes,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )

    def ask(process: subprocess.Popen[str]) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    times = interleaved([functools.partial(ask, process) for process in processes], rounds)
    for name, spent in zip(places, times, strict=True):
        report(f"restoring float32, {name}", spent, times[0])
    for process in processes:
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.worker:
        worker()
    elif args.wheel:
        compare_installed(args.wheel, args.rounds)
    elif shutil.which("c++") is None:
        raise SystemExit("no C++ compiler found; the variants cannot be compiled")
    else:
        compare_variants(args.rounds)


if __name__ == "__main__":
    main()
