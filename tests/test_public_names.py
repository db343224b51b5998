"""The package offers what it says, and nothing heavy happens on import."""

from __future__ import annotations

from pathlib import Path

import dirformer
from helpers import python


def test_every_public_name_resolves() -> None:
    """Each exported name is there; the list is sorted and complete."""
    assert dirformer.__all__ == sorted(dirformer.__all__)
    assert set(dirformer.__all__) == set(dirformer._HOMES) | {"__version__"}
    for name in dirformer.__all__:
        assert getattr(dirformer, name) is not None


def test_import_loads_nothing_heavy() -> None:
    """Importing the package, or its command line, imports neither torch nor numpy."""
    code = "import sys, dirformer, dirformer.cli; print('torch' in sys.modules or 'numpy' in sys.modules)"
    result = python("-c", code, check=True)
    assert result.stdout.strip() == "False"


def test_the_typed_client_uses_every_public_name() -> None:
    """`tests/typing/client.py`, which mypy checks strictly, imports all that is public."""
    client = (Path(__file__).parent / "typing" / "client.py").read_text(encoding="utf-8")
    assert all(name in client for name in dirformer.__all__)
