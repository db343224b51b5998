"""Preparing the paper's data sets from trees laid out as their archives are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dirformer.data.folders import find_photos, pair_photos, require_pairs
from dirformer.data.manifest import FILE, read_manifest
from dirformer.data.plans import plan
from dirformer.data.prepare import Prepared, count, prepare
from dirformer.data.sets import DATA_SETS, Cut, DataSet
from dirformer.data.shards import Shards
from dirformer.ground.errors import ConfigError, DataError, OutputError
from dirformer.ground.photo import read_rgb
from helpers import SRC, picture

Tree = dict[str, tuple[int, int]]

# One small tree per set, laid out as its official archive is: path → width and height.
TREES: dict[str, Tree] = {
    "div2k": {
        **{f"DIV2K_train_HR/{n:04}.png": (70, 50) for n in (1, 2, 3)},
        **{f"DIV2K_valid_HR/{n:04}.png": (50, 38) for n in (801, 802)},
        "DIV2K_valid_LR_bicubic/X4/0801x4.png": (12, 9),
    },
    "flickr2k": {f"Flickr2K/Flickr2K_HR/{n:06}.png": (70, 50) for n in (1, 2)},
    "ost": {
        "OutdoorSceneTrain_v2/animal/A_1.png": (60, 60),
        "OutdoorSceneTrain_v2/sky/A_1.png": (60, 60),
        "OutdoorSceneTest300/OutdoorSeg_1.png": (60, 60),
    },
    "set5": {f"Set5/{name}.png": (26, 24) for name in ("baby", "bird", "butterfly", "head", "woman")},
    "set14": {
        f"Set14/image_SRF_{s}/img_{n:03}_SRF_{s}_{k}.png": (24, 24)
        for n in (1, 2)
        for s in (2, 4)
        for k in ("HR", "LR")
    },
    "general100": {f"General-100/im_{n}.bmp": (25, 31) for n in (1, 2)},
    "urban100": {
        f"Urban100/image_SRF_4/img_{n:03}_SRF_4_{k}.png": (24, 24) for n in (1, 2) for k in ("HR", "LR")
    },
    "gopro": {
        f"GOPRO_Large/{split}/GOPR0{clip}_07_00/{kind}/000047.png": (1280, 720)
        for split in ("train", "test")
        for clip in (372, 374)
        for kind in ("blur", "blur_gamma", "sharp")
    },
    "hide": {
        "HIDE_dataset/GT/a.png": (30, 20),
        "HIDE_dataset/GT/b.png": (30, 20),
        "HIDE_dataset/GT/c.png": (30, 20),
        "HIDE_dataset/test/test-close-ups/a.png": (30, 20),
        "HIDE_dataset/test/test-long-shot/b.png": (30, 20),
        "HIDE_dataset/train/c.png": (30, 20),
    },
    "realblur-j": {
        f"RealBlur/RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene00{s}/{kind}/{kind}_{n}.png": (30, 20)
        for s in (1, 2)
        for kind in ("gt", "blur")
        for n in (1, 2)
    },
    "realblur-r": {
        f"RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref/scene00{s}/{kind}/{kind}_1.png": (30, 20)
        for s in (1, 2)
        for kind in ("gt", "blur")
    },
    "celeba-hq": {f"data256x256/{n:05}.jpg": (256, 256) for n in range(1, 7)},
    "places365": {
        "data_large/a/abbey/00000001.jpg": (40, 30),
        "data_large/a/abbey/00000002.jpg": (40, 30),
        "data_large/b/bar/00000001.jpg": (40, 30),
        "val_large/Places365_val_00000001.jpg": (40, 30),
    },
    "places365-challenge": {"data_large/a/abbey/00000001.jpg": (40, 30)},
    "realsr": {
        **{
            f"RealSR(V3)/{c}/Test/{s}/{c}_001_HR.png": (24, 24) for c in ("Canon", "Nikon") for s in (2, 3, 4)
        },
        **{
            f"RealSR(V3)/{c}/Test/{s}/{c}_001_LR{s}.png": (24 // s, 24 // s)
            for c in ("Canon", "Nikon")
            for s in (2, 3, 4)
        },
        "RealSR(V3)/Canon/Train/4/Canon_001_HR.png": (24, 24),
        "RealSR(V3)/Canon/Train/4/Canon_001_LR4.png": (6, 6),
    },
    "ntire2020-track1": {
        "Corrupted-tr-x/000001.png": (40, 30),
        "Corrupted-tr-y/0001.png": (40, 30),
        "Corrupted-va-x/0801.png": (10, 8),
        "DIV2K_valid_HR/0801.png": (40, 32),
    },
    "ntire2020-track2": {"DPEDiphone-tr-x/0.png": (40, 30), "DPEDiphone-va/0.png": (40, 30)},
}
J, R = (f"RealBlur-{k}_ECC_IMCORR_centroid_itensity_ref" for k in ("J", "R_BM3D"))
LISTS = {
    "celeba-hq": {
        "train_shuffled.flist": "5.jpg\n0.jpg\n1.jpg\n2.jpg\n",
        "val_shuffled.flist": "3.jpg\n4.jpg\n",
    },
    "realblur-j": {
        "RealBlur/RealBlur_J_test_list.txt": f"{J}/scene001/gt/gt_1.png {J}/scene001/blur/blur_1.png\n"
        f"{J}/scene001/gt/gt_2.png {J}/scene001/blur/blur_2.png\n",
        "RealBlur/RealBlur_J_train_list.txt": f"{J}/scene002/gt/gt_1.png {J}/scene002/blur/blur_1.png\n",
    },
    "realblur-r": {
        "RealBlur_R_test_list.txt": f"{R}/scene001/gt/gt_1.png {R}/scene001/blur/blur_1.png\n",
        "RealBlur_R_train_list.txt": f"{R}/scene002/gt/gt_1.png {R}/scene002/blur/blur_1.png\n",
    },
}
# Photos or pairs that each part of these trees should yield.
FOUND = {
    "div2k": {"train": 3, "valid": 2},
    "flickr2k": {"train": 2},
    "ost": {"train": 2},
    "set5": {"": 5},
    "set14": {"": 2},
    "general100": {"": 2},
    "urban100": {"": 2},
    "gopro": {"train": 2, "test": 2},
    "hide": {"test": 2, "train": 1},
    "realblur-j": {"test": 2, "train": 1},
    "realblur-r": {"test": 1, "train": 1},
    "celeba-hq": {"train": 3, "valid": 1, "test": 2},
    "places365": {"train": 3, "valid": 1},
    "places365-challenge": {"train": 1},
    "realsr": {"test-x2": 2, "test-x3": 2, "test-x4": 2, "train-x4": 1},
    "ntire2020-track1": {"source": 1, "target": 1, "valid": 1},
    "ntire2020-track2": {"source": 1, "valid": 1},
}


def _tree(root: Path, name: str) -> Path:
    for number, (file, (width, height)) in enumerate(TREES[name].items()):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        small = picture(min(width, 80), min(height, 60), seed=number)
        small.resize((width, height), Image.Resampling.NEAREST).save(path)
    for file, text in LISTS.get(name, {}).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return root


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the small tree of a set the official one: its counts, numbers and sub-image size."""

    def shrink(name: str) -> None:
        chosen = DATA_SETS[name]
        parts = tuple(
            replace(
                part,
                count=FOUND[name].get(part.name, 0),
                numbers=None if part.numbers is None else part.numbers[: FOUND[name].get(part.name, 0)],
                cut=None if part.cut is None or name == "gopro" else Cut(32, 16),
                shuffled=None if part.shuffled is None else ((1, 4) if part.name == "train" else (0, 1)),
            )
            for part in chosen.parts
        )
        monkeypatch.setitem(DATA_SETS, name, DataSet(chosen.title, parts))

    return shrink


@pytest.mark.parametrize("name", list(DATA_SETS))
def test_each_official_layout_is_found_and_prepared(
    name: str, tmp_path: Path, official: Callable[[str], None]
) -> None:
    """All photos of the small tree become readable photos and pairs of matching sizes; nothing is amiss."""
    official(name)
    plans = plan(name, _tree(tmp_path / "in", name))
    assert {p.part.name: len(p.items) for p in plans} == FOUND[name]
    assert [problem for p in plans for problem in p.problems] == []
    records = list(prepare(plans, tmp_path / "out"))
    assert [r.error for r in records] == [None] * count(plans)
    for planned in plans:
        for gt in (tmp_path / "out" / planned.part.name).rglob("gt"):
            if (gt.parent / "lq").is_dir():
                pairs = pair_photos(gt.parent / "lq", gt)
                scale = int(gt.parent.name[-1]) if re.search(r"x\d$", gt.parent.name) else 1
                require_pairs(pairs, 4 if name.startswith("ntire") else scale)
            else:
                assert all(read_rgb(path).numel() for path in find_photos(gt))


@pytest.mark.parametrize("name", list(DATA_SETS))
def test_the_counts_of_the_official_set_are_checked(name: str, tmp_path: Path) -> None:
    """The small tree is not the official set, and every part of a known count says so."""
    plans = plan(name, _tree(tmp_path, name))
    for planned in plans:
        if planned.part.count is not None and name != "set5":  # the small tree is the entire set
            assert any(f"the official set has {planned.part.count}" in p for p in planned.problems)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_in_place(kind: str, tmp_path: Path, official: Callable[[str], None]) -> None:
    """A zip or tar file, or a folder of them, gives the same files as the unpacked folder."""
    official("div2k")
    root = _tree(tmp_path / "in", "div2k")
    packed = tmp_path / "packed"
    packed.mkdir()
    for folder in ("DIV2K_train_HR", "DIV2K_valid_HR"):
        if kind == "zip":
            with zipfile.ZipFile(packed / f"{folder}.zip", "w") as archive:
                for path in sorted((root / folder).iterdir()):
                    archive.write(path, f"{folder}/{path.name}")
        else:
            with tarfile.open(packed / f"{folder}.tar", "w") as archive:
                archive.add(root / folder, f"./{folder}")
    list(prepare(plan("div2k", root), tmp_path / "a"))
    list(prepare(plan("div2k", packed), tmp_path / "b"))
    assert _pictures(tmp_path / "a") == _pictures(tmp_path / "b")
    one = plan("div2k", packed / f"DIV2K_train_HR.{kind}")
    assert [len(p.items) for p in one] == [3, 0]


def _pictures(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in files if p.name.endswith(".part")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(files) if p.name != FILE}


def test_sub_images_cover_the_photo(tmp_path: Path, official: Callable[[str], None]) -> None:
    """Squares of 32 every 16 pixels, the last ones at the border: the pixels are those of the photo."""
    official("div2k")
    root = _tree(tmp_path / "in", "div2k")
    list(prepare(plan("div2k", root), tmp_path / "out"))
    names = sorted(p.name for p in (tmp_path / "out/train/gt").glob("0001*"))
    # 70 wide: 0, 16, 32, 38; 50 high: 0, 16, 18.
    assert names == [f"0001_s{n:03}.png" for n in range(1, 13)]
    photo = read_rgb(root / "DIV2K_train_HR/0001.png")
    last = read_rgb(tmp_path / "out/train/gt/0001_s012.png")
    assert np.array_equal(last, photo[:, 18:50, 38:70])
    assert {p.name for p in (tmp_path / "out/valid").glob("x*")} == {"x2", "x3", "x4"}
    assert read_rgb(tmp_path / "out/valid/x3/gt/0801.png").shape == (3, 36, 48)


def test_reduced_copies_are_cut_too(tmp_path: Path) -> None:
    """Five sizes of a photo, each in squares: 1, 3/4, 1/2, 1/3, and a shorter side of 400."""
    (tmp_path / "in/Flickr2K_HR").mkdir(parents=True)
    Image.new("RGB", (1300, 1202), (90, 60, 30)).save(tmp_path / "in/Flickr2K_HR/000001.png")
    plans = plan("flickr2k", tmp_path / "in", cut=Cut(400, 400), multiscale=True)
    list(prepare(plans, tmp_path / "out"))
    names = [path.name for path in find_photos(tmp_path / "out/train/gt")]
    counts = [sum(f"_T{number}_" in name for name in names) for number in range(5)]
    # Columns times rows: 1300 x 1202, 975 x 901, 650 x 601, 433 x 400, 432 x 400.
    assert counts == [4 * 4, 3 * 3, 2 * 2, 2 * 1, 2 * 1]


def test_held_out_photos_are_not_trained_on(tmp_path: Path, official: Callable[[str], None]) -> None:
    """Training and validation parts of one list share nothing and are the same each time."""
    official("celeba-hq")
    train, valid, _ = plan("celeba-hq", _tree(tmp_path, "celeba-hq"))
    names = [{item.name for item in planned.items} for planned in (train, valid)]
    assert names[0] | names[1] == {"00001", "00002", "00003", "00006"} and not names[0] & names[1]


def test_benchmark_lq_are_the_published_ones(shared: Path, tmp_path: Path) -> None:
    """From Set5's real HR photos `prepare` makes, bit for bit, the ×4 LQ photos the field passes on."""
    (planned,) = plan("set5", shared / "datasets/Set5")
    assert planned.problems == []
    list(prepare([planned], tmp_path))
    for path in find_photos(shared / "datasets/Set5/LRx4"):
        assert np.array_equal(read_rgb(tmp_path / "x4/lq" / path.name), read_rgb(path))


def test_what_is_missing_is_listed(tmp_path: Path, official: Callable[[str], None]) -> None:
    """Missing numbers, missing partners, a missing list file and a missing folder, each by name."""
    official("div2k")
    root = _tree(tmp_path / "div2k", "div2k")
    (root / "DIV2K_train_HR/0002.png").unlink()
    assert any("missing: 2" in p for p in plan("div2k", root)[0].problems)
    for path in list((root / "DIV2K_valid_HR").iterdir()):
        path.unlink()
    assert "0 found, the official set has 2" in plan("div2k", root)[1].problems[0]

    official("gopro")
    root = _tree(tmp_path / "gopro", "gopro")
    (root / "GOPRO_Large/train/GOPR0372_07_00/blur/000047.png").unlink()
    assert any("GOPR0372_07_00_000047" in p for p in plan("gopro", root)[0].problems)

    root = _tree(tmp_path / "celeba", "celeba-hq")
    (root / "train_shuffled.flist").unlink()
    (root / "data256x256/00004.jpg").unlink()
    train, _, test = plan("celeba-hq", root)
    assert any("no list file" in p for p in train.problems)
    assert any("missing: 4" in p for p in test.problems)

    with pytest.raises(DataError, match="holds nothing of Flickr2K"):
        plan("flickr2k", root)
    with pytest.raises(DataError, match="is not there"):
        plan("div2k", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="div2k, flickr2k"):
        plan("imagenet", root)


def test_a_damaged_photo_is_named_and_the_others_go_on(
    tmp_path: Path, official: Callable[[str], None]
) -> None:
    """A truncated file and one of a wrong size are errors of their own, with two processes as well."""
    official("celeba-hq")
    root = _tree(tmp_path / "in", "celeba-hq")
    whole = (root / "data256x256/00001.jpg").read_bytes()
    (root / "data256x256/00001.jpg").write_bytes(whole[: len(whole) // 2])
    picture(128, 128).save(root / "data256x256/00002.jpg")
    records = list(prepare(plan("celeba-hq", root), tmp_path / "out", workers=2))
    errors = {r.name: r.error for r in records if r.error}
    assert set(errors) == {"00001", "00002"}
    assert "damaged" in errors["00001"] and "photos of this set are 256×256" in errors["00002"]
    assert len(_pictures(tmp_path / "out")) == 4
    (root / "data256x256/00001.jpg").write_bytes(whole)
    again = list(prepare(plan("celeba-hq", root), tmp_path / "out"))
    assert [r.name for r in again if not r.kept] == ["00001", "00002"]


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    """A zip file cut short, a tar file cut short, and kinds that cannot be read in place."""
    root = _tree(tmp_path / "in", "flickr2k")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(root / "Flickr2K/Flickr2K_HR/000001.png", "Flickr2K_HR/000001.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(root / "Flickr2K", "Flickr2K")
    for name in ("a.zip", "a.tar"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(DataError, match="download it again"):
            plan("flickr2k", tmp_path / name)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="unpack it"):
        plan("flickr2k", tmp_path / "a.tar.gz")


def test_other_settings_are_not_mixed_in(tmp_path: Path, official: Callable[[str], None]) -> None:
    """A folder of other sub-images is refused unless it is to be overwritten."""
    official("flickr2k")
    root = _tree(tmp_path / "in", "flickr2k")
    list(prepare(plan("flickr2k", root), tmp_path / "out"))
    with pytest.raises(OutputError, match="another cut"):
        prepare(plan("flickr2k", root, cut=Cut(24, 24)), tmp_path / "out")
    records = list(prepare(plan("flickr2k", root, cut=Cut(24, 24)), tmp_path / "out", overwrite=True))
    assert not any(r.kept for r in records)


KILLED = """
import sys
from pathlib import Path
from dataclasses import replace
from dirformer.data.plans import plan
from dirformer.data.prepare import prepare
from dirformer.data.sets import Cut
if __name__ == "__main__":
    source, out, shard = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) or None
    for record in prepare(plan("flickr2k", source, cut=Cut(32, 16)), out, workers=2, shard=shard):
        print(record.name, flush=True)
"""


@pytest.mark.parametrize("shard", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_without_loss_or_duplicates(tmp_path: Path, shard: int) -> None:
    """SIGKILL in the middle, then the same command: the files are those of an undisturbed run."""
    root, script = tmp_path / "in", tmp_path / "run.py"
    (root / "Flickr2K_HR").mkdir(parents=True)
    for number in range(1, 41):
        picture(96, 80, seed=number).save(root / f"Flickr2K_HR/{number:06}.png")
    script.write_text(KILLED)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, script, root, tmp_path / "out", str(shard)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    run = start()
    assert run.stdout is not None
    for _ in range(1 if shard else 4):
        run.stdout.readline()
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    time.sleep(0.2)
    done = len(read_manifest(tmp_path / "out/train" / FILE)[1])
    assert 0 < done < (10 if shard else 40)
    second = start()
    names = second.communicate(timeout=200)[0].split()
    assert second.returncode == 0
    assert len(names) == len(set(names)) == (10 if shard else 40)
    list(prepare(plan("flickr2k", root, cut=Cut(32, 16)), tmp_path / "whole", shard=shard or None))
    assert _pictures(tmp_path / "out") == _pictures(tmp_path / "whole")
    lines = (tmp_path / "out/train" / FILE).read_text().splitlines()[1:]
    recorded = [json.loads(line)["name"] for line in lines]
    assert len(recorded) == len(set(recorded)) == (10 if shard else 40)
    if shard:
        assert len(Shards(tmp_path / "out/train")) == 40 * 5 * 4


def test_pairs_cannot_be_sharded(tmp_path: Path) -> None:
    """The message says what shards hold."""
    with pytest.raises(ConfigError, match="single photos"):
        prepare(plan("hide", _tree(tmp_path / "in", "hide")), tmp_path / "out", shard=10)


def test_records_say_which_part(tmp_path: Path) -> None:
    """A record names its part, its photo and the number of files."""
    records = list(prepare(plan("hide", _tree(tmp_path / "in", "hide")), tmp_path / "out"))
    assert records[0] == Prepared("test", "a", files=2)
