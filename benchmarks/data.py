"""What feeding a training run costs, on one core: CPU seconds of one thread, not wall time.

    python benchmarks/data.py [--quick] [--json FILE]

1. Samples a second of 256-pixel crops: from PNG and JPEG photos of 2 megapixels, from sub-images of 480
   pixels, and from the same sub-images in shards. Nothing is cached between samples; files lie in the
   system's page cache, so this is decoding, not the disk.
2. The second-order degradation at a batch of 16 crops of 400 pixels, ×4, against a version that does the
   same steps photo by photo with OpenCV and NumPy, given the same parameters (needs
   opencv-python-headless). Rounds take turns; the median counts. With a GPU, photos per second of wall time
   there as well.
3. Training samples a second, crop included, of `realsr` and `realsr-graded` as a loader's worker makes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dirformer.data.datasets import CleanCrops
from dirformer.data.degraded import DegradedCrops
from dirformer.data.folders import find_photos
from dirformer.data.shards import Shards, write_index, write_shard
from dirformer.degradations.second_order import Draws, PassValues, SecondOrder
from dirformer.degradations.table import degradation
from dirformer.ground.device import seeded_generator


def photo(width: int, height: int, seed: int) -> Image.Image:
    """A picture with detail at all scales: its PNG takes about as many bytes as a photo's."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for octave in range(2, 9):
        small = rng.normal(size=(height // 2**octave + 2, width // 2**octave + 2, 3)).astype(np.float32)
        planes = [
            np.array(Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        total += np.stack(planes, 2) * 2 ** (octave - 4)
    total += rng.normal(size=total.shape).astype(np.float32) * 0.15
    total = 128 + 45 * total / total.std()
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def loading(folder: Path, samples: int) -> dict[str, float]:
    """Samples per second and core of each way to store photos."""
    for kind in ("png", "jpeg", "sub"):
        (folder / kind).mkdir()
    for number in range(4):
        image = photo(1632, 1224, number)
        image.save(folder / "png" / f"{number}.png")
        image.save(folder / "jpeg" / f"{number}.jpg", quality=92)
        for top in range(0, 721, 240):
            box = (240 * number, top, 240 * number + 480, top + 480)
            image.crop(box).save(folder / "sub" / f"{number}_{top}.png")
    members = [(path.name, path.read_bytes()) for path in find_photos(folder / "sub")]
    (folder / "shards").mkdir()
    write_shard(folder / "shards/shard-000000.tar", members)
    write_index(folder / "shards")
    sources = {
        "PNG, 2 megapixels": find_photos(folder / "png"),
        "JPEG, 2 megapixels": find_photos(folder / "jpeg"),
        "sub-images of 480 (PNG)": find_photos(folder / "sub"),
        "the same in shards": Shards(folder / "shards"),
    }
    result = {}
    for name, source in sources.items():
        data = CleanCrops(source, 256, seed=0, cache_bytes=0)
        data[0]
        spent = [seconds(lambda n=n, data=data: data[n]) for n in range(samples)]
        result[name] = 1 / statistics.mean(spent)
        print(f"{name:28} {result[name]:8.1f} samples/s per core")
    return result


def opencv_version(gt: np.ndarray, photos: list[Draws]) -> list[np.ndarray]:  # noqa: C901
    """The second-order degradation as it is usually written: one photo after the other."""
    import cv2

    modes = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

    def resize(x: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
        return cv2.resize(x, size[::-1], interpolation=modes[mode])

    def noise(x: np.ndarray, values: PassValues, rng: np.random.Generator) -> np.ndarray:
        drawn = values.noise
        if drawn.kind == "gaussian":
            shape = (*x.shape[:2], 1) if drawn.grey else x.shape
            x = x + rng.standard_normal(shape, dtype=np.float32) * (drawn.strength / 255)
        else:
            base = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None] if drawn.grey else x
            base = np.clip((base * 255).round(), 0, 255) / 255
            white = 2 ** np.ceil(np.log2(len(np.unique(base))))
            x = x + (np.float32(rng.poisson(base * white) / white) - base) * drawn.strength
        return np.clip(x, 0, 1).astype(np.float32)

    def jpeg(x: np.ndarray, quality: float) -> np.ndarray:
        x = np.clip(x, 0, 1) * 255
        _, data = cv2.imencode(".jpg", x, [int(cv2.IMWRITE_JPEG_QUALITY), int(quality)])
        return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32) / 255

    def blur(x: np.ndarray, kernel: object) -> np.ndarray:
        return cv2.filter2D(x, -1, kernel.pixels(21).float().numpy(), borderType=cv2.BORDER_REFLECT_101)

    out = []
    for x, draws in zip(gt, photos, strict=True):
        rng = np.random.default_rng(draws.first.noise.seed)
        route, target = draws.route, (x.shape[0] // 4, x.shape[1] // 4)
        for size, step, values in (
            (x.shape[:2], route.first, draws.first),
            (target, route.second, draws.second),
        ):
            x = blur(x, values.kernel) if step.blurs else x  # noqa: PLW2901
            x = resize(x, tuple(int(side * step.factor) for side in size), step.mode)  # noqa: PLW2901
            x = noise(x, values, rng)  # noqa: PLW2901
            if values is draws.first:
                x = jpeg(x, values.quality)  # noqa: PLW2901
        if not route.jpeg_last:
            x = jpeg(x, draws.second.quality)  # noqa: PLW2901
        x = blur(resize(x, target, route.final_mode), draws.sinc)  # noqa: PLW2901
        if route.jpeg_last:
            x = jpeg(x, draws.second.quality)  # noqa: PLW2901
        out.append((np.clip(x, 0, 1) * 255).round() / 255)
    return out


def degrading(rounds: int) -> dict[str, float]:
    """Photos per second of the second-order degradation, ours and OpenCV's."""
    batch = torch.stack(
        [torch.from_numpy(np.array(photo(400, 400, n))).permute(2, 0, 1).float() / 255 for n in range(16)]
    )
    array = np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())
    result: dict[str, float] = {}
    try:
        import cv2
    except ModuleNotFoundError:
        print("opencv-python-headless is not installed: no comparison")
        cv2 = None
    else:
        cv2.setNumThreads(1)
    for name, draws in (("draws per photo", "sample"), ("draws per batch", "batch")):
        degrade = SecondOrder(4, draws=draws)
        ours, theirs = [], []
        for number in range(-1, rounds):
            generators = [seeded_generator(0, number, i) for i in range(16)]
            parameters = degrade.draw(generators, (400, 400))
            ours.append(seconds(lambda d=degrade, p=parameters: d.apply(batch, p)))
            if cv2 is not None:
                theirs.append(seconds(lambda p=parameters: opencv_version(array, p)))
        # The first round warms up. Photos differ much in cost, so sums of the same rounds are compared.
        result[name] = 16 * rounds / sum(ours[1:])
        line = f"second order, {name:16} {result[name]:8.1f} photos/s per core"
        if theirs:
            ratio = statistics.median(b / a for a, b in zip(ours[1:], theirs[1:], strict=True))
            result[f"OpenCV, {name}"] = 16 * rounds / sum(theirs[1:])
            result[f"ratio, {name}"] = ratio
            line += f"   OpenCV and NumPy {result[f'OpenCV, {name}']:8.1f}   ratio {ratio:.2f}"
        print(line)
    if torch.cuda.is_available():
        degrade, on_device = SecondOrder(4), batch.cuda()
        for number in range(-2, rounds):
            if number == 0:
                torch.cuda.synchronize()
                start = time.perf_counter()
            degrade(on_device, [seeded_generator(0, number, i) for i in range(16)])
        torch.cuda.synchronize()
        result["GPU"] = 16 * rounds / (time.perf_counter() - start)
        print(f"second order on {torch.cuda.get_device_name()}: {result['GPU']:.1f} photos/s")
    return result


def sampling(folder: Path, rounds: int) -> dict[str, float]:
    """Degraded samples per second and core: patches of 128 pixels at scale 1, of 48 at scale 4."""
    result = {}
    photos = find_photos(folder / "sub")
    for kind in ("realsr", "realsr-graded"):
        for scale, patch in ((1, 128), (4, 48)):
            degrade = degradation(kind, scale)
            crops = CleanCrops(photos, (patch + 2 * degrade.margin) * scale, seed=0)
            data, count = DegradedCrops(crops, degrade, 0), 16 * rounds
            for n in range(len(photos)):
                crops[n]  # decoded once, kept
            name = f"{kind} x{scale}, {patch} pixels"
            result[name] = count / seconds(lambda d=data, n=count: [d[i] for i in range(n)])
            print(f"{name:28} {result[name]:8.1f} samples/s per core")
    return result


def profile_second_order() -> None:
    """Say which operators take the time."""
    from torch.profiler import ProfilerActivity, profile

    batch = torch.rand(16, 3, 400, 400, generator=torch.Generator().manual_seed(0))
    degrade = SecondOrder(4)
    draws = degrade.draw([seeded_generator(1, i) for i in range(16)], (400, 400))
    with profile(activities=[ProfilerActivity.CPU]) as record:
        degrade.apply(batch, draws)
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    shares = [f"{e.key.removeprefix('aten::')} {e.self_cpu_time_total / total:.0%}" for e in events[:6]]
    print("where the time goes: " + ", ".join(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few samples only")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {"loading": loading(Path(folder), 4 if arguments.quick else 40)}
        result["sampling"] = sampling(Path(folder), 2 if arguments.quick else 20)
    result["second order"] = degrading(2 if arguments.quick else 20)
    profile_second_order()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
