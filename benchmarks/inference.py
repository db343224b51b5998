"""Speed of inference: the streaming engine against what one would otherwise take, on this machine.

    python benchmarks/inference.py                          # every case and every other way that is installed
    python benchmarks/inference.py --quick --json out.json  # deblurring 256×256 against eager alone
    python benchmarks/inference.py --sizes --plot docs/guides/streaming.svg  # time and memory against size

Process CPU time of one thread is the measure (wall time depends on who else works here); runs are interleaved
(A B C A B C …), ratios are medians over the rounds. Weights are random, norms and modulation lively: speed
does not depend on them. The prior network and the diffusion are left out everywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from plain import PlainDIRformer
from torch import Tensor

from dirformer.inference.engine import Engine
from dirformer.kernels.build import CompilerMissingError
from dirformer.kernels.native import NativeKernels
from dirformer.kernels.stock import StockKernels
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.presets import preset

CASES = {
    "deblurring 256×256": ("deblurring", 256, 256, 3),
    "inpainting 256×256": ("inpainting", 256, 256, 5),
    "sr-x4 64×64": ("sr-x4", 64, 64, 5),
    "sr-x4 128×128": ("sr-x4", 128, 128, 3),
    "sr-x4-compact 128×128": ("sr-x4-compact", 128, 128, 7),
    "deblurring-compact 256×256": ("deblurring-compact", 256, 256, 7),
    "inpainting-compact 256×256": ("inpainting-compact", 256, 256, 7),
    "deblurring 1280×720": ("deblurring", 720, 1280, 1),
}
WAYS = (
    "eager",
    "modules",
    "compiled",
    "onnxruntime",
    "openvino",
    "openvino bf16",
    "stock",
    "native",
    "native bf16",
)
# G Mult-Adds of the engine's products and 3×3 convolutions (attention merged with its projection).
PRODUCTS = {
    "deblurring 256×256": 106.1,
    "inpainting 256×256": 44.3,
    "sr-x4 64×64": 37.2,
    "sr-x4 128×128": 148.7,
    "deblurring 1280×720": 1493,
}


@dataclass
class Case:
    """One network and one photo."""

    model: DiffIRS2
    lq: Tensor
    prior: Tensor


def make_case(name: str, height: int, width: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = DiffIRS2(preset(name)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = 2 * torch.rand(parameter.shape, generator=generator) - 1
            if "temperature" in key:
                parameter.copy_(3 + 1.5 * noise)
            elif "norm.weight" in key:
                parameter.copy_(1 + 0.2 * noise)
            elif key.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "modulation" in key:
                parameter.copy_(0.05 * noise + 0.0125)
    lq = torch.rand(1, model.config.in_channels, height, width, generator=generator)
    with torch.no_grad():
        prior = model.cpen(lq)
    return Case(model, lq, prior)


def make_way(way: str, case: Case, threads: int) -> Callable[[], Tensor]:
    """Return a function that restores the case's photo; importing and compiling happen here."""
    net, lq, prior = case.model.dirformer, case.lq, case.prior
    if way == "eager":
        plain = PlainDIRformer(net)
        return lambda: plain(lq, prior)
    if way == "modules":
        return lambda: net(lq, prior)
    if way == "compiled":
        compiled = torch.compile(PlainDIRformer(net).to(memory_format=torch.channels_last))
        return lambda: compiled(lq, prior)
    if way == "onnxruntime":
        return onnxruntime_way(case, threads)
    if way.startswith("openvino"):
        return openvino_way(case, "bf16" if way.endswith("bf16") else "f32", threads)
    precision = torch.bfloat16 if way.endswith("bf16") else torch.float32
    kernels = StockKernels(precision) if way.startswith("stock") else NativeKernels(precision)
    engine = Engine(case.model, kernels=kernels, threads=threads)
    return lambda: engine.restore_under(lq, prior)


def onnx_file(case: Case) -> Path:
    config = case.model.config
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dirformer" / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    path /= f"{config.task}-{config.dim}-{case.lq.shape[2]}x{case.lq.shape[3]}.onnx"
    if not path.exists():
        part = path.with_suffix(".part.onnx")
        torch.onnx.export(
            PlainDIRformer(case.model.dirformer), (case.lq, case.prior), part, dynamo=False, opset_version=17
        )
        part.replace(path)
    return path


def onnxruntime_way(case: Case, threads: int) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx_file(case), options, providers=["CPUExecutionProvider"])
    values = [case.lq.numpy(), case.prior.numpy()]
    names = [entry.name for entry in session.get_inputs()]
    return lambda: torch.from_numpy(session.run(None, dict(zip(names, values, strict=True)))[0])


def openvino_way(case: Case, hint: str, threads: int) -> Callable[[], Tensor]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(str(onnx_file(case)), "CPU", options)
    values = [case.lq.numpy(), case.prior.numpy()]
    return lambda: torch.from_numpy(compiled(values)[0].copy())


def product_rate() -> float:
    """G floating-point operations per second of one thread's 2048³ float32 product."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    times = []
    for _ in range(4):
        start = time.process_time()
        torch.mm(a, b)
        times.append(time.process_time() - start)
    return 2 * 2048**3 / min(times) / 1e9


def measure(name: str, ways: list[str], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Run the ways of one case in turn; a record each, ratios against the first."""
    network, height, width, _ = CASES[name]
    case = make_case(network, height, width)
    runs: dict[str, Callable[[], Tensor]] = {}
    times: dict[str, list[tuple[float, float]]] = {}
    expected, facts = None, {}
    for way in ways:
        try:
            started = time.perf_counter()
            run = make_way(way, case, threads)
            cpu, wall = time.process_time(), time.perf_counter()
            got = run()
            times[way] = [(time.process_time() - cpu, time.perf_counter() - wall)] if rounds == 0 else []
        except (ImportError, CompilerMissingError) as error:
            print(f"  {way}: left out ({error})", flush=True)
            continue
        preparation = time.perf_counter() - started
        expected = got if expected is None else expected
        error = got - expected
        mse = float(error.square().mean())
        facts[way] = {
            "max_difference": float(error.abs().max()),
            "psnr_to_first": None if mse == 0 else -10 * float(torch.tensor(mse).log10()),
            "preparation_s": preparation,
        }
        runs[way] = run
    for _ in range(rounds):
        for way, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            times[way].append((time.process_time() - cpu, time.perf_counter() - wall))
    rate = product_rate()
    records = []
    first = times[next(iter(runs))]
    for way, taken in times.items():
        cpu = statistics.median(t[0] for t in taken)
        records.append(
            {
                "case": name,
                "way": way,
                "threads": threads,
                "cpu_s": cpu,
                "wall_s": statistics.median(t[1] for t in taken),
                "cpu_ratio": statistics.median(a[0] / b[0] for a, b in zip(first, taken, strict=True)),
                "wall_ratio": statistics.median(a[1] / b[1] for a, b in zip(first, taken, strict=True)),
                "product_share": 2 * PRODUCTS[name] / (cpu * rate) if name in PRODUCTS else None,
                "product_rate_gflops": rate,
                **facts[way],
            }
        )
    return records


PEAK = """
import sys, time
sys.path.insert(0, {folder!r})
import torch
from inference import CASES, make_case, make_way
torch.set_num_threads(1)
network, height, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
case = make_case(network, height, width)
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
with torch.inference_mode():
    run = make_way(sys.argv[4], case, 1)
    start = time.process_time()
    run()
print((status("VmHWM") - before) / 1024, time.process_time() - start)
"""


def measure_alone(network: str, height: int, width: int, way: str) -> tuple[float, float]:
    """Peak MiB above the process with weights loaded, and CPU s, once in a process of its own (Linux)."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK.format(folder=str(Path(__file__).parent))]
    command += [network, str(height), str(width), way]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[-2]), float(output[-1])


SIZES = (128, 256, 384, 512, 768, 1024)
LABELS = {"eager": "eager PyTorch", "openvino": "OpenVINO", "native": "streaming engine"}


def measure_sizes(ways: list[str]) -> list[dict[str, Any]]:
    """Time and memory of square photos under the deblurring preset, each way and size once."""
    records = []
    for side in SIZES:
        for way in ways:
            mib, seconds = measure_alone("deblurring", side, side, way)
            records.append({"way": way, "side": side, "cpu_s": seconds, "peak_mib": mib})
            print(f"  {side:4}² {way:10} {seconds:7.2f} CPU s {mib:6.0f} MiB", flush=True)
    return records


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory against the side of a square photo."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dirformer", "font.size": 9})
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, field, label, per in zip(
        figure.subplots(1, 2),
        ("cpu_s", "peak_mib"),
        ("CPU seconds, one thread", "GiB beside the network"),
        (1, 1024),
        strict=True,
    ):
        for way in dict.fromkeys(record["way"] for record in records):
            points = [(r["side"], r[field] / per) for r in records if r["way"] == way]
            axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=LABELS.get(way, way))
        axes.set_xticks(SIZES, [f"{side}²" for side in SIZES])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="photo, pixels", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def show(record: dict[str, Any]) -> None:
    psnr, share = record["psnr_to_first"], record["product_share"]
    print(
        f"  {record['way']:14} {record['cpu_s']:8.2f} CPU s {record['wall_s']:8.2f} s"
        f"  ×{record['cpu_ratio']:.2f}"
        + (f"  {share:4.0%} of product rate" if share else "")
        + (f"  {record['peak_mib']:6.0f} MiB" if "peak_mib" in record else "")
        + f"  max {record['max_difference']:.1e}"
        + (f" ({psnr:.0f} dB)" if psnr else ""),
        flush=True,
    )


def write_json(path: Path, records: list[dict[str, Any]]) -> None:
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    path.write_text(json.dumps({"schema": 1, "machine": machine, "records": records}, indent=2) + "\n")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="deblurring 256×256 against eager alone")
    parser.add_argument("--sizes", action="store_true", help="time and memory against size, deblurring")
    parser.add_argument("--plot", type=Path, help="with --sizes: draw them into this .svg or .png")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--case", action="append", choices=CASES, help="only these cases")
    parser.add_argument("--way", action="append", choices=WAYS, help="only these ways, after eager")
    parser.add_argument("--rounds", type=int, help="rounds per case after a first run; 0 takes that one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    if arguments.sizes:
        ways = [w for w in LABELS if w != "openvino" or importlib.util.find_spec("openvino")]
        records = measure_sizes(arguments.way or ways)
        if arguments.plot:
            plot(records, arguments.plot)
        if arguments.json:
            write_json(arguments.json, records)
        return
    cases = ["deblurring 256×256"] if arguments.quick else arguments.case or list(CASES)
    ways = ["eager", "native"] if arguments.quick else ["eager", *(arguments.way or WAYS[1:])]
    records = []
    for name in cases:
        print(name, flush=True)
        network, height, width, rounds = CASES[name]
        for record in measure(
            name,
            list(dict.fromkeys(ways)),
            1 if arguments.quick else rounds if arguments.rounds is None else arguments.rounds,
            arguments.threads,
        ):
            if not (arguments.quick or arguments.no_memory):
                record["peak_mib"], _ = measure_alone(network, height, width, record["way"])
            records.append(record)
            show(record)
    if arguments.json:
        write_json(arguments.json, records)
    last = records[-1]
    print(f"{last['way']}: ratio {last['cpu_ratio']:.2f}, largest difference {last['max_difference']:.1e}")


if __name__ == "__main__":
    main()
