"""Where the files of a release lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "src" / "dirformer" / "weights" / "files"
REPORTS = ROOT / "docs" / "reports" / "models"
DOCS = ROOT / "docs"
