"""One page for all tests of this room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import SRC

LIMIT = 3_000_000
"""Pixels that the page under test takes."""


@pytest.fixture(scope="session")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server puts what is temporary."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(temporary: Path) -> Iterator[tuple[str, int]]:
    """The page, served by the command line in a process of its own: its address and process id."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra `app`)")
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    arguments = ("-m", "dirformer", "app", "--no-browser", "--max-pixels", str(LIMIT))
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            found = next(line for line in process.stdout if "http" in line)
            yield found.split()[1].rstrip("/"), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()  # a closed pipe would end it by an error
    assert process.returncode == 0
    assert not list(temporary.glob("dirformer*")), "the server left something behind"


@pytest.fixture
def address(server: tuple[str, int]) -> str:
    """Where the page is."""
    return server[0]
