"""Holes, canvases and pages: what is outside of a hole is the input's, to the last level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import dirformer
from dirformer.inference.files import FileRun, restore_files
from dirformer.inference.jobs import FileOptions, parse_extend, plan_jobs
from dirformer.inference.restorer import Restorer
from dirformer.weights.checkpoints import save
from helpers import TINY_INPAINTING, picture, tiny


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tmp_path / "fill.safetensors", tiny(TINY_INPAINTING))
    return tmp_path / "fill.safetensors"


def write_mask(path: Path) -> np.ndarray:
    values = np.zeros((24, 32), np.uint8)
    values[8:16, 10:20] = 255
    Image.fromarray(values).save(path)
    return values > 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize(("dilate", "feather"), [(0, 0), (3, 0), (0, 3), (2, 3)])
def test_outside_of_the_hole_nothing_changes(
    tmp_path: Path, weights: Path, suffix: str, dilate: int, feather: int
) -> None:
    """8 and 16 bit and JPEG; and what the mask covers has no influence."""
    hole = write_mask(tmp_path / "mask.png")
    source = tmp_path / f"in{suffix}"
    if suffix == ".tif":
        deep = np.random.default_rng(0).integers(0, 65536, (24, 32, 3), dtype=np.uint16)
        tifffile.imwrite(source, deep, photometric="rgb")
        before = deep
    else:
        picture(32, 24).save(source)
        with Image.open(source) as image:
            before = np.array(image)
    out = tmp_path / ("out.tif" if suffix == ".tif" else "out.png")
    options = FileOptions(dilate=dilate, feather=feather)
    call = {"model": weights, "mask": tmp_path / "mask.png", "files": options, "overwrite": True}
    dirformer.restore(source, out, **call)
    after = tifffile.imread(out) if suffix == ".tif" else np.array(Image.open(out))
    by = max(dilate, feather)
    grown = np.zeros_like(hole)
    grown[8 - by : 16 + by, 10 - by : 20 + by] = True
    assert np.array_equal(after[~grown], before[~grown])
    assert not np.array_equal(after[hole], before[hole])
    if suffix == ".png":
        hidden = before.copy()
        hidden[hole] = 7
        Image.fromarray(hidden).save(source)
        dirformer.restore(source, out, **call)
        assert np.array_equal(np.array(Image.open(out)), after)


def test_a_photo_is_extended(tmp_path: Path, weights: Path) -> None:
    """The canvas grows on each side; the inside stays."""
    picture(32, 24).save(tmp_path / "in.png")
    files = FileOptions(extend=parse_extend("5,0,3,8"))
    dirformer.restore(tmp_path / "in.png", tmp_path / "out.png", model=weights, files=files)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (40, 32)
        assert np.array_equal(np.array(image)[:24, 5:37], np.array(picture(32, 24)))


def test_masks_among_photos(tmp_path: Path, weights: Path) -> None:
    """NAME.png and NAME_mask001.png in one folder: photos with their masks, and no mask is restored."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        picture(32, 24).save(folder / f"{name}.jpg")
        write_mask(folder / f"{name}_mask001.png")
    planned = plan_jobs([folder], tmp_path / "out", mask=folder)
    jobs, errors = planned.jobs, planned.errors
    assert not errors
    assert [(job.photo.name, job.mask.name) for job in jobs if job.mask] == [
        ("a.jpg", "a_mask001.png"),
        ("b.jpg", "b_mask001.png"),
    ]
    assert "2 masks" in planned.notes[0]
    done = list(restore_files(Restorer(weights, device="cpu"), jobs))
    assert all(record.error is None for record in done)


def test_pages(tmp_path: Path) -> None:
    """The first page with a line that says so; all pages as files NAME_p001, NAME_p002 …."""
    save(tmp_path / "sr.safetensors", tiny())
    frames = [picture(16, 12, seed=i) for i in range(3)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    restorer = Restorer(tmp_path / "sr.safetensors", device="cpu")
    jobs = plan_jobs([tmp_path / "in.gif"], tmp_path / "one").jobs
    (record,) = restore_files(restorer, jobs)
    assert record.job.output.name == "in.png" and "it has 3 pages" in record.notes[0]
    options = FileOptions(pages=True, format="webp")
    jobs = plan_jobs([tmp_path / "in.gif"], tmp_path / "all", options=options).jobs
    done = list(restore_files(restorer, jobs, FileRun(files=options)))
    assert [r.job.output.name for r in done] == ["in_p001.webp", "in_p002.webp", "in_p003.webp"]
    assert all(r.error is None and r.job.output.is_file() for r in done)


def test_memory_that_is_missing_is_that_photo_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next photo is restored."""
    save(tmp_path / "sr.safetensors", tiny())
    for name in ("a", "b"):
        picture(16, 12).save(tmp_path / f"{name}.png")
    restorer = Restorer(tmp_path / "sr.safetensors", device="cpu")
    whole, calls = restorer.restore, []

    def fail_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(*arguments, **options)

    monkeypatch.setattr(restorer, "restore", fail_once)
    jobs = plan_jobs([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out").jobs
    first, second = restore_files(restorer, jobs)
    assert "does not fit into memory" in str(first.error) and second.error is None
