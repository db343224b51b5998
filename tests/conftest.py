"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Parallel workers and threads inside operators wait on each other; one thread each is fastest.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and photos beside the repository; a bare clone has none."""
    if not (SHARED / "reference").is_dir():
        pytest.skip(
            "no ../shared beside the repository: a bare clone tests this promise on its own small case"
        )
    return SHARED
