"""What goes to the terminal is text: names of files cannot move its cursor, colour it or split a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dirformer.cli.terminal import complain, say, say_aside, say_table, visible
from dirformer.weights.checkpoints import save
from helpers import dirformer, picture, tiny

ESCAPE = "esc\x1b[31mred"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ESCAPE, r"esc\x1b[31mred"),
        ("two\nlines\r\tof\x7f\x9btext", r"two\nlines\r\tof\x7f\x9btext"),
        ("a\u202egnp.exe\u2066", r"a\u202egnp.exe\u2066"),
        ("a\u2028b\u0085c\x00", r"a\u2028b\x85c\x00"),
        ("Öl 雨\u3000👩\u200d🚀 a\u00a0b\udcff ×4 → é", "Öl 雨\u3000👩\u200d🚀 a\u00a0b\udcff ×4 → é"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    """Also those that turn the direction of writing; letters, spaces and signs of all scripts stay."""
    assert visible(text) == shown


def test_every_way_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, asides and errors; a table keeps its own lines and nothing else."""
    say(ESCAPE + "\n")
    say_table(f"| a |\n| {ESCAPE} |")
    say_aside(ESCAPE)
    complain(f"{ESCAPE} is\nnot there")
    out, err = capsys.readouterr()
    assert out.splitlines() == [r"esc\x1b[31mred\n", "| a |", r"| esc\x1b[31mred |"]
    assert err.splitlines() == [r"esc\x1b[31mred", r"dirformer: esc\x1b[31mred is not there"]


def test_names_of_files_are_text(tmp_path: Path) -> None:
    """Results, errors and wrong options are said so; the files themselves keep their names."""
    save(tmp_path / "sr.safetensors", tiny())
    folder = tmp_path / "in"
    folder.mkdir()
    picture(16, 12).save(folder / "plain.png")
    names = [f"{ESCAPE}.png", "two\nlines.png"]
    for name in names:
        shutil.copy(folder / "plain.png", folder / name)
    (folder / f"{ESCAPE} not.png").write_bytes(b"no photo")
    done = dirformer("restore", folder, "-o", tmp_path / "out", "--model", tmp_path / "sr.safetensors")
    assert done.returncode == 2 and all((tmp_path / "out" / name).is_file() for name in names)
    wrong = dirformer("restore", folder, "-o", tmp_path / "out", f"--{ESCAPE}")
    for text in (done.stdout, done.stderr, wrong.stderr):
        assert "\x1b" not in text
    assert r"esc\x1b[31mred.png" in done.stdout and r"two\nlines.png" in done.stdout
    assert r"esc\x1b[31mred not.png" in done.stderr and r"\x1b" in wrong.stderr
