"""The documentation site: it builds without a warning, holds every page, and asks no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from release import site

import dirformer
from dirformer.weights.catalog import CATALOG
from helpers import SRC

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. Strict: a broken link, an unknown name or a page outside of the navigation ends the build."""
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed (extra `docs`)")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(SRC)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return out


class Addresses(HTMLParser):
    """What a browser fetches for a page: scripts, styles, pictures, fonts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")


def test_every_page_is_there(built: Path) -> None:
    """README, guides, cards and changes are pages; pages open from a folder, without a server."""
    pages = {str(path.relative_to(built)) for path in built.rglob("*.html")}
    assert {"index.html", "guides/start.html", "CHANGELOG.html", "reference/python.html"} <= pages
    assert {f"cards/{name}.html" for name in CATALOG} <= pages
    assert {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")).replace("README", "index")
        for path in (ROOT / "docs").rglob("*.md")
    } <= pages


def test_nothing_is_fetched_from_elsewhere(built: Path) -> None:
    """No page loads a script, style, font or picture from another host."""
    for path in built.rglob("*.html"):
        parser = Addresses()
        parser.feed(path.read_text("utf-8"))
        assert not [each for each in parser.found if re.match(r"(https?:)?//", each)], path


def test_every_public_name_has_its_place(built: Path) -> None:
    """The reference holds each public name, with its sentence."""
    page = (built / "reference" / "python.html").read_text("utf-8")
    for name in set(dirformer.__all__) - {"__version__"}:
        value = getattr(dirformer, name)
        assert f'id="{value.__module__}.{value.__qualname__}"' in page, name


def test_marks_of_the_tests_are_not_shown(built: Path) -> None:
    """`requires:` behind the language of a code block is for the tests alone."""
    assert site._NEEDS.sub(r"\1", "```sh requires: eight GPUs\nx") == "```sh\nx"
    assert not [path for path in built.rglob("*.html") if "sh requires:" in path.read_text("utf-8")]
