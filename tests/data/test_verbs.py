"""The verbs of this room, from the command line."""

from __future__ import annotations

from pathlib import Path

from helpers import dirformer, picture


def test_degrade_masks_and_prepare(tmp_path: Path) -> None:
    """Each makes what it says and reports it; the same command again keeps all; errors are one line."""
    photos = tmp_path / "Set5"
    photos.mkdir()
    for name in ("baby", "bird"):
        picture(48, 40).save(photos / f"{name}.png")
    made = dirformer("degrade", photos, "-o", tmp_path / "test", "--kind", "realsr", "--scale", 2)
    assert made.returncode == 0, made.stderr
    assert "2 made, 0 kept, 0 left out" in made.stdout
    again = dirformer("degrade", photos, "-o", tmp_path / "test", "--kind", "realsr", "--scale", 2)
    assert "0 made, 2 kept" in again.stdout
    holes = dirformer("masks", "-o", tmp_path / "masks", "--kind", "thin", "--size", 256, "-n", 2)
    assert holes.returncode == 0 and len(list((tmp_path / "masks").glob("*.png"))) == 2
    incomplete = dirformer("prepare", "set5", photos, "-o", tmp_path / "set5")
    assert incomplete.returncode == 2
    assert "photos: 2 found, the official set has 5" in incomplete.stderr
    assert incomplete.stderr.splitlines()[-1].endswith("or add --partial")
    partial = dirformer("prepare", "set5", photos, "-o", tmp_path / "set5", "--partial")
    assert partial.returncode == 0 and (tmp_path / "set5/x4/lq/bird.png").is_file()
    wrong = dirformer("prepare", "div2k", photos, "-o", tmp_path / "x", "--cut", "480")
    assert wrong.returncode == 2 and "SIDE/STEP" in wrong.stderr
