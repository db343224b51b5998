"""`plan` of photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import dirformer, photo_folder, picture


def test_sizes_and_sums(tmp_path: Path) -> None:
    """Each photo is told its model and size; the sums are those of the photos; nothing is written."""
    photo_folder(tmp_path / "photos", 2, (40, 30))
    picture(1100, 64).save(tmp_path / "photos" / "wide.png")
    before = sorted(tmp_path.rglob("*"))
    told = dirformer("plan", tmp_path / "photos", "--json", tmp_path / "p.json")
    assert told.returncode == 0, told.stderr
    rows = json.loads((tmp_path / "p.json").read_text())["photos"]
    assert [(row["model"], row["before"], row["after"]) for row in rows] == [
        ("realsr-x4-compact", [40, 30], [160, 120]),
        ("realsr-x4-compact", [40, 30], [160, 120]),
        ("realsr-x1-compact", [1100, 64], [1100, 64]),
    ]
    assert all(row["seconds"] > 0 and row["memory_bytes"] > 0 for row in rows)
    assert "3 photos (2 by realsr-x4-compact, 1 by realsr-x1-compact)" in told.stdout
    (tmp_path / "p.json").unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "after"),
    [(("--size", "60x"), [60, 45]), (("--scale", "2"), [80, 60]), (("--task", "denoise"), [40, 30])],
)
def test_options_count(tmp_path: Path, options: tuple[str, ...], after: list[int]) -> None:
    """Options of `restore` mean the same here."""
    picture(40, 30).save(tmp_path / "a.png")
    assert dirformer("plan", tmp_path / "a.png", *options, "--json", tmp_path / "p.json").returncode == 0
    assert json.loads((tmp_path / "p.json").read_text())["photos"][0]["after"] == after


def test_pages_and_edges_count(tmp_path: Path) -> None:
    """Every page is planned with `--pages`; painted edges make it larger; too many pixels are refused."""
    first, second = picture(40, 30), picture(20, 10)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[second])
    arguments = ("plan", tmp_path / "two.tif", "--json", tmp_path / "p.json")
    assert dirformer(*arguments, "--pages", "--task", "denoise").returncode == 0
    rows = json.loads((tmp_path / "p.json").read_text())["photos"]
    assert [row["before"] for row in rows] == [[40, 30], [20, 10]]
    assert dirformer(*arguments, "--extend", "0,8,0,8").returncode == 0
    assert json.loads((tmp_path / "p.json").read_text())["photos"][0]["before"] == [40, 46]
    assert "more than 100; raise --max-pixels" in dirformer(*arguments, "--max-pixels", "100").stderr


def test_a_small_photo_needs_no_room_for_the_square(tmp_path: Path) -> None:
    """What is restored to measure may be larger than the limit allows; the photo is planned all the same."""
    picture(40, 30).save(tmp_path / "small.png")
    told = dirformer("plan", tmp_path / "small.png", "--task", "denoise", "--max-memory", "64MiB")
    assert told.returncode == 0, told.stderr


def test_limit_is_kept_or_refused(tmp_path: Path) -> None:
    """A memory limit shows in the plan: maps wait on disk; one that cannot be kept is that photo's error."""
    picture(1200, 1100).save(tmp_path / "large.png")
    picture(40, 30).save(tmp_path / "small.png")
    arguments = ("plan", tmp_path / "large.png", tmp_path / "small.png", "--task", "denoise")
    kept = dirformer(*arguments, "--max-memory", "135MiB", "--json", tmp_path / "p.json")
    assert kept.returncode == 0, kept.stderr
    large = json.loads((tmp_path / "p.json").read_text())["photos"][0]
    assert large["memory_bytes"] <= 135 * 2**20 and large["disk_bytes"] > 0
    refused = dirformer(*arguments, "--max-memory", "90MiB")
    assert refused.returncode == 2
    assert "a memory limit of 90 MiB is too small for" in refused.stderr
    assert "small.png: realsr-x1-compact" in refused.stdout


def test_bad_photo_does_not_stop_the_rest(tmp_path: Path) -> None:
    """What is no photo is named; the others are planned; the exit code is 2."""
    (tmp_path / "text.png").write_text("no photo")
    picture(40, 30).save(tmp_path / "a.png")
    told = dirformer("plan", tmp_path / "text.png", tmp_path / "a.png")
    assert told.returncode == 2
    assert "text.png" in told.stderr and "a.png: realsr-x4-compact" in told.stdout


def test_missing_photo_and_unknown_recipe() -> None:
    """A name with a photo's suffix is a photo; any other is a recipe."""
    assert "nosuch.jpg is not there" in dirformer("plan", "nosuch.jpg").stderr
    assert "recipe" in dirformer("plan", "nosuch").stderr
