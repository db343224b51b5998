"""What the documentation site adds to docs/: the README as its home, the models' cards, every public name.

A hook of MkDocs. Pages link to files of the repository, and work there; here these links lead to the same
pages of the site, and names of source files become plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import dirformer
from dirformer.weights.catalog import CATALOG

ROOT = Path(__file__).parents[1]
CARDS = {f"src/dirformer/weights/files/{name}.md": f"cards/{name}.md" for name in CATALOG}
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    **CARDS,
}
"""File of the repository → page of the site."""
REFERENCE = "reference/python.md"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_OUTSIDE = re.compile(r"[a-z]+:|#")
_NEEDS = re.compile(r"^(```\w+) requires: .*$", re.MULTILINE)


def reference() -> str:
    """Return a page with every public name, for mkdocstrings to fill from the docstrings."""
    lines = ["# Python, every name", "", "Made from the docstrings.", ""]
    for name in sorted(set(dirformer.__all__) - {"__version__"}, key=str.lower):
        value = getattr(dirformer, name)
        lines += [f"::: {value.__module__}.{value.__qualname__}", ""]
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Put the models' cards into the navigation."""
    for section in config["nav"]:
        if "Models" in section:
            section["Models"] = [{name: f"cards/{name}.md"} for name in CATALOG]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/, and the reference."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, REFERENCE, content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links lead to pages of the site, and take marks of the tests out of code blocks."""
    del config
    sources = {target: source for source, target in PAGES.items()}
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")
    known = {file.src_uri for file in files}

    def lead(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        if _OUTSIDE.match(target):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        found = PAGES.get(wanted, wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        if found is None or found not in known:
            return text if not mark else match[0]
        return f"{mark}[{text}]({posixpath.relpath(found, posixpath.dirname(here) or '.')}{anchor or ''})"

    return _NEEDS.sub(r"\1", _LINK.sub(lead, markdown))
