"""How long a fleet takes: measured on this machine, simulated for any other, and both compared.

    python benchmarks/fleet.py simulate --photos 1e7 --workers 100 --seconds 0.4
    python benchmarks/fleet.py measure --photos 300       # Ray and local workers, in turn, on the same photos
    python benchmarks/fleet.py check --photos 300         # the simulation against a real cluster of two
    python benchmarks/fleet.py batches --size 64          # whether batches of equal sizes would pay on a CPU

The simulation is the engine's queue: chunks of 16 photos go to the worker that is free first; a worker that
dies loses the chunk at work, comes back after a while and loads its networks again; chunks are listed at a
rate. What it leaves out: limits of the store, and networks between machines.
"""

from __future__ import annotations

import argparse
import heapq
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 16


@dataclass(frozen=True)
class Plan:
    """A fleet, and what may befall it."""

    photos: int = 10_000_000
    workers: int = 100
    seconds: float = 0.4
    """Of one photo on one worker, on average, with reading and writing."""
    spread: float = 0.5
    """Standard deviation of the logarithm of a photo's seconds."""
    start: float = 30.0
    """Seconds from a worker's start to its first photo."""
    hours_between_deaths: float = 500.0
    """Of one worker, on average; 0 is never."""
    absent: float = 180.0
    """Seconds until a dead worker's place is taken."""
    slow_share: float = 0.02
    """Share of the workers that are slow."""
    slowness: float = 3.0
    """How much longer these take."""
    listed_per_second: float = 3000.0
    """Photos that listing finds: three requests for a thousand names at a time."""
    listers: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a plan."""

    hours: float
    ideal_hours: float
    """Of workers that never die, none slow, with no start and no end."""
    efficiency: float
    deaths: int
    wasted: float
    """Share of the workers' time that went into chunks that were lost."""
    last_chunk_hours: float
    """From the first worker without work to the end."""


def simulate(plan: Plan) -> Outcome:
    """Play a plan through, chunk by chunk."""
    draw = np.random.default_rng(plan.seed)
    chunks = -(-plan.photos // CHUNK)
    slow = draw.random(plan.workers) < plan.slow_share
    free = [(plan.start, worker) for worker in range(plan.workers)]
    heapq.heapify(free)
    death = draw.exponential(plan.hours_between_deaths * 3600 or np.inf, plan.workers)
    death += np.inf if plan.hours_between_deaths == 0 else 0
    mean = plan.seconds * CHUNK
    # The mean of 16 photos spreads by a quarter of one photo's spread.
    sigma = np.sqrt(np.log1p(np.expm1(plan.spread**2) / CHUNK))
    rate = plan.listed_per_second * plan.listers / CHUNK
    done = deaths = 0
    wasted = end = 0.0
    idle: float | None = None
    block, at = draw.lognormal(-(sigma**2) / 2, sigma, 65536), 0
    while done < chunks:
        now, worker = heapq.heappop(free)
        now = max(now, done / rate)
        if at == len(block):
            block, at = draw.lognormal(-(sigma**2) / 2, sigma, 65536), 0
        needed = mean * block[at] * (plan.slowness if slow[worker] else 1)
        at += 1
        if now + needed > death[worker]:
            lost = max(0.0, death[worker] - now)
            wasted, deaths = wasted + lost, deaths + 1
            back = max(now, death[worker]) + plan.absent + plan.start
            death[worker] = back + draw.exponential(plan.hours_between_deaths * 3600)
            heapq.heappush(free, (back, worker))
            continue
        done += 1
        end = max(end, now + needed)
        if done == chunks:
            idle = now
        heapq.heappush(free, (now + needed, worker))
    ideal = plan.photos * plan.seconds / plan.workers
    return Outcome(
        end / 3600,
        ideal / 3600,
        ideal / end,
        deaths,
        wasted / (end * plan.workers),
        (end - (idle or end)) / 3600,
    )


def _photos(folder: Path, count: int, size: int) -> Path:
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 4}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return folder


@dataclass(frozen=True)
class Run:
    """What one real run took."""

    start: float
    """Seconds until the first chunk was done."""
    seconds: float
    """From the first chunk done to the last."""
    photos: int
    """Done between them."""
    each: tuple[float, ...]
    """Of every photo, as its worker says them."""
    total: float

    @property
    def rate(self) -> float:
        """Photos a second, once the workers are at work."""
        return self.photos / self.seconds


def _run(photos: Path, engine: str, processes: int) -> Run:
    from dirformer.fleet.cluster import Cluster
    from dirformer.fleet.restoring import RestoreOrder
    from dirformer.fleet.run import run
    from dirformer.ground.places import Place

    out = Path(tempfile.mkdtemp(prefix="fleet-"))
    order = RestoreOrder((Place.of(photos),), Place.of(out), model="realsr-x4-compact")
    begun, first, done, each = time.perf_counter(), None, 0, []
    last = begun
    for report in run(order, engine, Cluster(processes=processes)):
        last = time.perf_counter()
        each += [record.seconds for record in report.records if not record.error]
        if first is None:
            first = last
        else:
            done += len(report.records)
    shutil.rmtree(out)
    assert first is not None
    return Run(first - begun, last - first, done, tuple(each), time.perf_counter() - begun)


def measure(photos: Path, processes: int, rounds: int) -> None:
    """Print photos a second of both engines, in turn, and their ratio."""
    ratios = []
    for number in range(rounds):
        pair = {}
        for engine in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
            pair[engine] = _run(photos, engine, processes)
            one = pair[engine]
            print(
                f"{engine:6} {one.rate:6.2f} photos/s behind the first chunk, which took {one.start:5.1f} s"
            )
        ratios.append(pair["ray"].rate / pair["local"].rate)
    print(
        f"Ray / local: {statistics.median(ratios):.3f} (median of {rounds} pairs: "
        f"{', '.join(f'{ratio:.3f}' for ratio in ratios)})"
    )


def check(photos: Path, processes: int) -> None:
    """Print the time that a real cluster took, and the simulation's from the same photos' seconds."""
    real = _run(photos, "ray", processes)
    mean = statistics.fmean(real.each)
    spread = statistics.pstdev(np.log(real.each))
    # Threads of a worker overlap: a photo's seconds count fetching and encoding beside another's work.
    busy = processes * real.seconds / real.photos
    plan = Plan(
        photos=len(real.each),
        workers=processes,
        seconds=busy,
        spread=float(spread),
        start=max(0.0, real.start - busy * CHUNK),
        hours_between_deaths=0,
        slow_share=0,
    )
    seen = [simulate(replace(plan, seed=seed)).hours * 3600 for seed in range(50)]
    print(f"a photo: {mean:.3f} s by its stages, {busy:.3f} s of a worker; first chunk {real.start:.1f} s")
    print(
        f"real {real.start + real.seconds:.1f} s, simulated {statistics.median(seen):.1f} s "
        f"({min(seen):.1f} to {max(seen):.1f} over 50 seeds)"
    )


def batches(size: int, rounds: int, count: int) -> None:
    """Print CPU seconds of photos of one size: one by one, in a batch, and one photo of as many pixels."""
    import torch

    from dirformer import Restorer

    torch.set_num_threads(1)
    restorer = Restorer("realsr-x4-compact", context="image")
    model, engine = restorer.model, restorer.engine
    draw = torch.Generator().manual_seed(0)
    photos = torch.rand(count, 3, size, size, generator=draw)
    noise = torch.randn(model.noise_shape[0], count, *model.noise_shape[1:], generator=draw)
    side = int(size * count**0.5)
    large = torch.rand(1, 3, side, side, generator=draw)

    def alone(restore: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        return [restore(photos[n : n + 1], noise[:, n : n + 1])[0] for n in range(count)]

    ways: dict[str, Callable[[], object]] = {
        "engine, one by one": lambda: alone(engine.restore),
        f"engine, one photo of {side}×{side}": lambda: engine.restore(large, noise[:, :1]),
        "plain modules, one by one": lambda: alone(model),
        "plain modules, a batch": lambda: model(photos, noise),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for way in ways.values():
            way()
        for _ in range(rounds):
            for name, way in ways.items():
                begun = time.process_time()
                way()
                seconds[name].append(time.process_time() - begun)
        single, batch = torch.stack(alone(model)), model(photos, noise)
    first = next(iter(seconds.values()))
    for name, each in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(each, first, strict=True))
        print(f"{name:32} {statistics.median(each):6.3f} CPU s, {ratio:.3f} of the first")
    off = float((single - batch).abs().max())
    equal = sum(torch.equal(one, other) for one, other in zip(single, batch, strict=True))
    print(f"plain modules, batch against one by one: {equal} of {count} equal, differ by {off:.1g} at most")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=("simulate", "measure", "check", "batches"), nargs="?", default="simulate"
    )
    parser.add_argument("--quick", action="store_true", help="a small simulation only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=None, help=f"default {value}")
    given = parser.parse_args()
    fields = {
        n: type(v)(getattr(given, n)) for n, v in asdict(Plan()).items() if getattr(given, n) is not None
    }
    plan = replace(Plan(), **fields)
    if given.what == "simulate":
        plan = replace(plan, photos=min(plan.photos, 100_000)) if given.quick else plan
        print(json.dumps({"plan": asdict(plan), "outcome": asdict(simulate(plan))}, indent=2))
        return
    if given.what == "batches":
        batches(given.size, given.rounds, int(given.photos or 16))
        return
    with tempfile.TemporaryDirectory() as room:
        photos = _photos(Path(room) / "photos", int(given.photos or 300), given.size)
        if given.what == "measure":
            measure(photos, given.processes, given.rounds)
        else:
            check(photos, given.processes)


if __name__ == "__main__":
    main()
