"""What `doctor` finds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from dirformer.cli.doctor import checkup
from dirformer.weights.catalog import CATALOG
from helpers import dirformer


def test_all_is_named(tmp_path: Path) -> None:
    """Versions, devices, memory, kernels, weights with digests and extras come as text and as JSON."""
    told = dirformer("doctor", "--json", tmp_path / "d.json")
    assert told.returncode == 0
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert found["devices"]["auto"] == ("cuda" if torch.cuda.is_available() else found["devices"]["auto"])
    for name, entry in CATALOG.items():
        assert hashlib.sha256(entry.path.read_bytes()).hexdigest() in found["weights"][name]
        assert f"\n  {name} " in told.stdout
    assert found["kernels"]["inference"].startswith(("compiled: ", "stock PyTorch"))


def test_missing_packages_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra that lacks a package names it, and the command that installs it."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "gradio":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert checkup()["extras"]["app"] == "missing gradio: pip install 'dirformer[app]'"


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels are switched off, it says so, and why that is slower."""
    monkeypatch.setenv("DIRFORMER_NATIVE", "0")
    assert checkup()["kernels"]["inference"] == "stock PyTorch, slower: switched off by DIRFORMER_NATIVE=0"
