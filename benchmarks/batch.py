"""A folder of small photos: what reading, writing and the log cost beside the network, and how memory grows.

    python benchmarks/batch.py                 # 200 JPEGs of 160×120 → PNG, sr-x4-compact
    python benchmarks/batch.py --quick         # 40

Chunks of the folder are restored in turn by the network alone (photos decoded before, results dropped) and as
`dirformer restore` does it. Both take turns within one run, since wall time depends on who else works here;
the ratio is the median over the chunks. Resident memory is read behind each chunk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dirformer.ground.memory import resident_memory
from dirformer.ground.photo import read_photo
from dirformer.inference.choice import Keys, influences
from dirformer.inference.done import DoneLog
from dirformer.inference.files import FileRun, restore_files
from dirformer.inference.jobs import FileOptions, Job, plan_jobs
from dirformer.inference.restorer import Restorer

CHUNKS = 4
SIZE = (160, 120)
MIB = 2**20


def write_photos(folder: Path, count: int) -> None:
    """JPEGs with edges and some noise, no two alike."""
    folder.mkdir()
    for number in range(count):
        values = np.random.default_rng(number).uniform(0, 255, (8, 10, 3)).astype(np.uint8)
        photo = Image.fromarray(values).resize(SIZE, Image.Resampling.BICUBIC)
        noise = np.random.default_rng(number).normal(0, 4, (SIZE[1], SIZE[0], 3))
        photo = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
        photo.save(folder / f"{number:03}.jpg", quality=90)


def alone(restorer: Restorer, jobs: list[Job]) -> float:
    """Seconds of the network alone."""
    photos = [read_photo(job.photo).pixels for job in jobs]
    start = time.perf_counter()
    for photo in photos:
        restorer.restore(photo)
    return time.perf_counter() - start


def whole(restorer: Restorer, jobs: list[Job], run: FileRun, workers: int) -> float:
    """Seconds of the whole way, file to file."""
    start = time.perf_counter()
    for record in restore_files(restorer, jobs, run, workers=workers):
        if record.error is not None:
            raise record.error
    return time.perf_counter() - start


def measure(model: str, count: int, workers: int, place: Path) -> dict[str, float]:
    """Ratio of both ways, seconds per photo, and MiB behind the first and the last chunk."""
    write_photos(place / "in", count)
    files = FileOptions(format="png")
    restorer, log = Restorer(model, device="cpu"), DoneLog(place / "out")
    keys = Keys(model, influences(restorer.options, files, seed=0))
    run = FileRun(files=files, log=log, keys=keys)
    jobs = plan_jobs([place / "in"], place / "out", options=files).jobs
    restorer.restore(read_photo(jobs[0].photo).pixels)  # kernels are built, weights packed
    ratios, pure, full, memory = [], [], [], []
    size = count // CHUNKS
    for number in range(CHUNKS):
        chunk = jobs[number * size : (number + 1) * size]
        before = alone(restorer, chunk)
        full.append(whole(restorer, chunk, run, workers))
        after = alone(restorer, chunk)
        pure.append((before + after) / 2)
        ratios.append(full[-1] / pure[-1])
        memory.append((resident_memory() or 0) / MIB)
        print(
            f"{(number + 1) * size:4} photos: network alone {pure[-1] / size:.3f} s a photo, file to file "
            f"{full[-1] / size:.3f} s, ratio {ratios[-1]:.3f}; {memory[-1]:.0f} MiB"
        )
    return {
        "ratio": statistics.median(ratios),
        "network_seconds": sum(pure) / count,
        "file_seconds": sum(full) / count,
        "mib_first": memory[0],
        "mib_last": memory[-1],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sr-x4-compact")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as place:
        result = measure(options.model, 40 if options.quick else 200, options.workers, Path(place))
    print(
        f"{options.model}, {options.workers} workers: ratio {result['ratio']:.3f} (median); "
        f"{result['mib_first']:.0f} MiB behind the first chunk, {result['mib_last']:.0f} MiB behind the last"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
