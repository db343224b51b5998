"""Every example of README and docs is run, in a folder with small photos under the names that the pages use.

The first line of a block may say what it needs that a test has not: `sh requires: eight GPUs`. Trainings are
cut to one small step by fields behind the example's own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import pytest
from PIL import Image, ImageFilter

from dirformer.cli.planning import are_photos
from dirformer.degradations.table import DEGRADATIONS
from dirformer.metrics.table import METRICS
from dirformer.tasks import TASKS
from helpers import FABRIC_WARNINGS, dirformer, picture

ROOT = Path(__file__).parents[1]
SHORT = (
    *(
        "steps=1",
        "data.batch=1",
        "data.patch=16",
        "data.progressive=[]",
        "data.val_crop=64",
        "data.workers=0",
    ),
    *("val_every=1", "save_every=1", "log=[]", "accumulate=1", "precision=32-true", "warmup.steps=0"),
)
"""What makes a training small."""
OUTSIDE = ("pip ", "make ")
"""Commands that set a machine up: the suite itself was started by them."""


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, what it requires, text) of each block of a page."""
    found = re.findall(r"```(\w+)(?: requires: ([^\n]+))?\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [(language, needs, text) for language, needs, text in found if language in ("sh", "python")]


PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))) if blocks(page)]


def write_film(path: Path) -> None:
    """A film of a few frames."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_image(picture(48, 32, seed=number))))
        out.mux(stream.encode())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with photos under the names that the pages use; tables are as before behind it."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "photo.png"):
        picture(64, 48).save(name)
    hole = Image.new("L", (64, 48))
    hole.paste(255, (20, 10, 36, 24))
    hole.save("hole.png")
    for folder in (
        "photos",
        "DIR",
        "VAL",
        "SHARP",
        "VAL_SHARP",
        "sharp",
        "HR",
        "Set5/HRx4",
        "GoPro/sharp",
        "frames",
    ):
        Path(folder).mkdir(parents=True)
        names = ("c", "d", "e") if "VAL" in folder else ("a", "b", "butterfly")
        for number, name in enumerate(names):
            photo = picture(224, 216, seed=number)
            photo.save(f"{folder}/{name}.png")
            for other, size in () if "VAL" in folder else (("LR", 4), ("Set5/LRx4", 4)):
                Path(other).mkdir(parents=True, exist_ok=True)
                photo.resize((224 // size, 216 // size)).save(f"{other}/{name}.png")
            for other in ("VAL_BLURRED",) if "VAL" in folder else ("BLURRED", "blurred", "GoPro/blurred"):
                Path(other).mkdir(parents=True, exist_ok=True)
                photo.filter(ImageFilter.GaussianBlur(1)).save(f"{other}/{name}.png")
    write_film(Path("film.mp4"))
    for number in range(9):
        picture(32, 32, seed=number).save(f"frames/{number:03}.png")
    Path("photos_val.txt").write_text("photos/butterfly.png\n")
    tables = [TASKS, METRICS, DEGRADATIONS]
    before = [dict(table) for table in tables]
    yield tmp_path
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


@FABRIC_WARNINGS
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, place: Path) -> None:
    """From top to bottom: each command ends with 0, each Python block runs."""
    del place
    for language, needs, text in blocks(page):
        if needs:
            continue
        if language == "python":
            run_python(text, page.name)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            command = shlex.split(line, comments=True)
            if not command or line.startswith(OUTSIDE):
                continue
            assert command[0] == "dirformer", f"{page.name}: {line}"
            outcome = dirformer(*shortened(command[1:]))
            assert outcome.returncode == 0, f"{line}\n{outcome.stderr}"


def run_python(text: str, page: str) -> None:
    """Run a block as a module of its own, which dataclasses and pickles look up by name."""
    module = ModuleType("example")
    sys.modules["example"] = module
    try:
        exec(compile(text, f"{page}, example", "exec"), module.__dict__)
    finally:
        del sys.modules["example"]


def shortened(command: list[str]) -> list[str]:
    """A training of one small step; everything else as it is."""
    trains = command[0] == "train" or (command[0] == "plan" and not are_photos(command[1]))
    return [*command, *SHORT] if trains else command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_says_why(page: Path) -> None:
    """A reason is a few words; at least half of a page's examples run, reports apart."""
    found = blocks(page)
    assert all(3 < len(needs) < 60 for _, needs, _ in found if needs)
    if "reports" not in page.parts and len(found) > 1:
        assert sum(not needs for _, needs, _ in found) * 2 >= len(found)
