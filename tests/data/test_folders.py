"""Listing and pairing photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from dirformer.data.folders import (
    find_photos,
    name_pattern,
    pair_photos,
    read_pairs,
    require_pairs,
    require_size,
)
from dirformer.ground.errors import DataError
from dirformer.ground.places import Place
from helpers import picture


def _folder(path: Path, names: list[str], size: tuple[int, int] = (16, 12)) -> Path:
    path.mkdir()
    for name in names:
        picture(*size).save(path / name)
    return path


def test_pairs_are_made_by_name(tmp_path: Path) -> None:
    """Order and suffix do not matter; a pattern says how LQ files are called."""
    gt = _folder(tmp_path / "gt", ["b.png", "a.bmp"], (32, 24))
    lq = _folder(tmp_path / "lq", ["ax2.png", "bx2.jpg"])
    pairs = pair_photos(lq, gt, "{}x2")
    assert [(a.name, b.name) for a, b in pairs] == [("ax2.png", "a.bmp"), ("bx2.jpg", "b.png")]
    require_pairs(pairs, 2)
    with pytest.raises(DataError, match="pattern"):
        pair_photos(lq, gt, "x2")


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    """On either side, with the nearest name there is."""
    gt = _folder(tmp_path / "gt", ["one.png", "two.png"])
    lq = _folder(tmp_path / "lq", ["one.png"])
    with pytest.raises(DataError, match=r"two is in .*gt but two is not in .*lq"):
        pair_photos(lq, gt)
    picture(16, 12).save(lq / "twoo.png")
    with pytest.raises(DataError, match=r"two is in .* nearest there: twoo"):
        pair_photos(lq, gt)
    picture(16, 12).save(lq / "two.png")
    with pytest.raises(DataError, match=r"twoo is in .*lq but not in"):
        pair_photos(lq, gt)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """a.png and a.jpg cannot both be the partner of a."""
    gt = _folder(tmp_path / "gt", ["a.png", "a.jpg"])
    with pytest.raises(DataError, match="same name"):
        pair_photos(gt, gt)


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    """Both files and both sizes; a photo that EXIF turns counts as it is shown."""
    gt, lq = _folder(tmp_path / "gt", ["a.png"], (33, 24)), _folder(tmp_path / "lq", ["a.png"])
    with pytest.raises(DataError, match=r"a.png is 16×12 and .*a.png 33×24; expected .* 32×24"):
        require_pairs(pair_photos(lq, gt), 2)
    image = picture(24, 32)
    exif = image.getexif()
    exif[0x0112] = 6
    (gt / "a.png").unlink()
    image.save(gt / "a.jpg", exif=exif)
    require_pairs(pair_photos(lq, gt), 2)


def test_small_and_unreadable_photos_are_named(tmp_path: Path) -> None:
    """At the start, from the headers alone."""
    folder = _folder(tmp_path / "photos", ["a.png"])
    with pytest.raises(DataError, match=r"a\.png is 16×12; crops need at least 16×16"):
        require_size(find_photos(folder), 16)
    (folder / "b.png").write_text("no photo")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        require_size(find_photos(folder), 8)


def test_no_photo_and_no_folder_are_different_errors(tmp_path: Path) -> None:
    """An empty folder, a missing one, and one that may not be opened."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no photos"):
        find_photos(tmp_path / "empty")
    with pytest.raises(DataError, match="is not there"):
        find_photos(tmp_path / "missing")
    (tmp_path / "a.png").write_bytes(b"")
    for place in (tmp_path / "a.png", Place(f"file://{tmp_path}/a.png"), Place("memory://one/a.png")):
        if isinstance(place, Place) and place.local is None:
            place.write(b"x")
        with pytest.raises(DataError, match=r"a.png is a file; expected a folder of photos or a .txt list"):
            find_photos(place)


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without permission the message says so (tests may run as root, who has all permissions)."""

    def refuse(_: Path) -> list[Path]:
        raise PermissionError

    monkeypatch.setattr("dirformer.data.folders.list_photos", refuse)
    with pytest.raises(DataError, match="no permission"):
        find_photos(tmp_path)


def test_lists_of_pairs(tmp_path: Path) -> None:
    """Two names a line, relative to the list; the first bad line is named by its number."""
    _folder(tmp_path / "gt", ["a b.png", "c.png"], (32, 24))
    _folder(tmp_path / "lq", ["a b.png", "c.png"])
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("# LQ, GT\nlq/a b.png\tgt/a b.png\n\nlq/c.png gt/c.png\n")
    found = read_pairs(pairs)
    assert [(a.parent.name, b.parent.name, b.name) for a, b in found] == [
        ("lq", "gt", "a b.png"),
        ("lq", "gt", "c.png"),
    ]
    pairs.write_text("lq/c.png\n")
    with pytest.raises(DataError, match="line 1: 1 names"):
        read_pairs(pairs)
    pairs.write_text("lq/c.png gt/c.png\nlq/c.png gt/d.png\n")
    with pytest.raises(DataError, match=r"line 2: .*d\.png is not there"):
        read_pairs(pairs)
    pairs.write_text("\n")
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(pairs)
    with pytest.raises(DataError, match="is not there"):
        read_pairs(tmp_path / "none.txt")


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_photos_named_after_their_scale_pair_by_themselves(tmp_path: Path, scale: int) -> None:
    """DIV2K calls the LQ photo of 0801 0801x4; folders that pair in no way keep the plain message."""
    for folder, name in (("gt", "0801"), ("gt", "0802"), ("lq", f"0801x{scale}"), ("lq", f"0802x{scale}")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.png").touch()
    pattern = name_pattern(tmp_path / "lq", tmp_path / "gt")
    assert pattern == f"{{}}x{scale}"
    assert [b.stem for _, b in pair_photos(tmp_path / "lq", tmp_path / "gt")] == ["0801", "0802"]
    (tmp_path / "lq" / f"0802x{scale}.png").unlink()
    assert name_pattern(tmp_path / "lq", tmp_path / "gt") == "{}"


def test_folders_and_lists_at_an_address(tmp_path: Path) -> None:
    """Photos of a folder, of a list and of lists beside folders are those that are found here."""

    fsspec.filesystem("memory").store.clear()
    top = Place("memory://found")
    for name in ("photos/b.png", "photos/a.jpg", "photos/text.txt", "photos/.hidden.png", "c.png"):
        for place in (top.below(name), Place.of(tmp_path / name)):
            place.write(b"photo")
    lists = {"photos_val.txt": "b.png\n\na.jpg\nc.png\n", "bad.txt": "none.png\n", "no.txt": ""}
    for name, text in lists.items():
        for place in (top.below(name), Place.of(tmp_path / name)):
            place.write(text.encode())

    def relative(found: list[Any], root: str) -> list[str]:
        return [str(one).removeprefix(root).lstrip("/") for one in found]

    for name in ("photos", "photos_val.txt"):
        here, there = find_photos(tmp_path / name), find_photos(top.below(name))
        assert relative(there, str(top)) == relative(here, str(tmp_path)) != []
        assert find_photos(Place.of(tmp_path / name)) == [Place.of(path) for path in here]
    for name in ("bad.txt", "no.txt", "none", "photos/a.jpg"):
        with pytest.raises(DataError) as here_said:
            find_photos(tmp_path / name)
        with pytest.raises(DataError) as there_said:
            find_photos(top.below(name))
        assert str(there_said.value).replace("memory://found", str(tmp_path)) == str(here_said.value)
