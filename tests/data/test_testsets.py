"""Reproducible test sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dirformer.data.folders import pair_photos, pick_photos, require_pairs
from dirformer.data.manifest import FILE, Manifest, read_manifest
from dirformer.data.testsets import average_clips, degrade_photos, make_masks, mask_photos
from dirformer.degradations.table import DEGRADATIONS
from dirformer.ground.errors import ConfigError, DataError, OutputError
from helpers import picture


def _photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for number in range(count):
        picture(50, 43 + number, seed=number).save(folder / f"p{number}.png")
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
def test_a_test_set_is_reproducible(tmp_path: Path, kind: str) -> None:
    """The same seed gives the same files, manifest included; pairs match in name and size."""
    source = _photos(tmp_path / "photos")
    for out in ("a", "b"):
        assert [m.error for m in degrade_photos(source, tmp_path / out, kind, seed=3)] == [None] * 3
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    pairs = pair_photos(tmp_path / "a/lq", tmp_path / "a/gt")
    require_pairs(pairs, DEGRADATIONS[kind].scales[0])
    settings, records = read_manifest(tmp_path / "a" / FILE)
    assert settings["degradation"] == kind and settings["seed"] == 3
    assert [r["name"] for r in records] == ["p0", "p1", "p2"]


def test_a_photo_does_not_depend_on_the_others(tmp_path: Path) -> None:
    """A photo alone in its folder comes out as it does among others."""
    source = _photos(tmp_path / "photos")
    list(degrade_photos(source, tmp_path / "all", "realsr"))
    for name in ("p0.png", "p1.png"):
        (source / name).unlink()
    list(degrade_photos(source, tmp_path / "one", "realsr"))
    assert (tmp_path / "all/lq/p2.png").read_bytes() == (tmp_path / "one/lq/p2.png").read_bytes()


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    """A second run makes what is missing only; half a line of a killed run does no harm."""
    source, out = _photos(tmp_path / "photos"), tmp_path / "out"
    list(degrade_photos(source, out, "realsr"))
    before = _files(out)
    (out / "lq/p1.png").unlink()
    with (out / FILE).open("a") as file:
        file.write('{"name": "p')
    assert [m.kept for m in degrade_photos(source, out, "realsr")] == [True, False, True]
    assert _files(out) == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """A folder made with another seed is not mixed with this one, unless it is to be overwritten."""
    source, out = _photos(tmp_path / "photos"), tmp_path / "out"
    list(degrade_photos(source, out, "noise", seed=1))
    with pytest.raises(OutputError, match="another seed"):
        degrade_photos(source, out, "noise", seed=2)
    assert not any(m.kept for m in degrade_photos(source, out, "noise", seed=2, overwrite=True))


def test_a_damaged_photo_is_left_out_and_named(tmp_path: Path) -> None:
    """Others go on; names that would collide are refused at the start."""
    source = _photos(tmp_path / "photos")
    (source / "p1.png").write_bytes((source / "p1.png").read_bytes()[:500])
    made = list(degrade_photos(source, tmp_path / "out", "bicubic"))
    assert [m.error is None for m in made] == [True, False, True]
    assert "p1.png" in str(made[1].error)
    picture(20, 20).save(source / "p0.jpg")
    with pytest.raises(DataError, match=r"would both become p0\.png"):
        degrade_photos(source, tmp_path / "other", "bicubic")


def test_frames_are_averaged_around_the_middle_one(tmp_path: Path) -> None:
    """Seven frames in threes make two photos, each with the middle frame as its GT."""
    (tmp_path / "clip").mkdir()
    for number in range(7):
        Image.new("RGB", (8, 6), (30 * number,) * 3).save(tmp_path / f"clip/f{number}.png")
    made = list(average_clips(tmp_path / "clip", tmp_path / "out", frames=3))
    assert [m.name for m in made] == ["f1", "f4"]
    light = np.mean([(30 * n / 255) ** 2.2 for n in (3, 4, 5)]) ** (1 / 2.2) * 255
    assert Image.open(tmp_path / "out/lq/f4.png").getpixel((0, 0))[0] == round(light)
    assert Image.open(tmp_path / "out/gt/f4.png").getpixel((0, 0))[0] == 120
    with pytest.raises(ConfigError, match="odd"):
        average_clips(tmp_path / "clip", tmp_path / "out", frames=4)
    with pytest.raises(DataError, match="7 frames"):
        average_clips(tmp_path / "clip", tmp_path / "out", frames=9)


def test_masks_are_a_fixed_set(tmp_path: Path) -> None:
    """The same seed gives the same masks, black and white, at most half hole; more of them only add."""
    assert len(list(make_masks(tmp_path / "a", "thick", 256, 3, seed=5))) == 3
    assert [m.kept for m in make_masks(tmp_path / "a", "thick", 256, 4, seed=5)] == [True, True, True, False]
    list(make_masks(tmp_path / "b", "thick", 256, 4, seed=5))
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    for path in sorted((tmp_path / "a").glob("*.png")):
        values = np.array(Image.open(path))
        assert values.shape == (256, 256) and set(np.unique(values)) <= {0, 255}
        assert (values > 0).mean() <= 0.5
    with pytest.raises(OutputError, match="another seed"):
        make_masks(tmp_path / "a", "thick", 256, 3, seed=6)


def test_photos_with_masks_are_square_and_paired(tmp_path: Path) -> None:
    """Wide and tall photos give squares of the size asked for, with at most half hole."""
    source = tmp_path / "photos"
    source.mkdir()
    picture(500, 300).save(source / "wide.png")
    picture(120, 160).save(source / "small.png")
    assert [m.error for m in mask_photos(source, tmp_path / "out", "medium", 256)] == [None, None]
    pairs = pair_photos(tmp_path / "out/masks", tmp_path / "out/gt")
    require_pairs(pairs, 1, 256)
    for mask, _ in pairs:
        assert 0 < (np.array(Image.open(mask)) > 0).mean() <= 0.5


def test_a_manifest_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    """A file where the folder should be is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Manifest(tmp_path / "file", {"a": 1})


def test_the_papers_names_of_masks(tmp_path: Path) -> None:
    """`narrow` and `wide` are LaMa's thin and thick: the same masks, and one set under either name."""
    for name, same in (("narrow", "thin"), ("wide", "thick")):
        for kind in (name, same):
            assert all(made.error is None for made in make_masks(tmp_path / kind, kind, 256, 2))
        one, other = ((tmp_path / kind / "mask_00001.png").read_bytes() for kind in (name, same))
        assert one == other
        assert all(made.kept for made in make_masks(tmp_path / name, same, 256, 2))


def test_a_fixed_part_of_the_photos_is_picked(tmp_path: Path) -> None:
    """The names with the smallest SHA-256, whatever else is in the folder's path; too many are refused."""
    for name in ("a", "b", "c", "d"):
        picture(40, 40).save(tmp_path / f"{name}.png")
    photos = [tmp_path / f"{name}.png" for name in "abcd"]
    # sha256sum: a ca97…, b 3e23…, c 2e7d…, d 18ac…
    assert [path.stem for path in pick_photos(photos, 2)] == ["c", "d"]
    assert pick_photos(photos, None) == photos
    for count in (0, 5):
        with pytest.raises(ConfigError, match="are to be picked, 4 are there"):
            pick_photos(photos, count)
