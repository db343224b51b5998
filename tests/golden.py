"""Where the large golden files are, and skipping without them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(name: str) -> Path:
    """Return a file or folder of `shared`, beside the repository; skip the test where it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the golden files are kept beside the repository")
    return path
