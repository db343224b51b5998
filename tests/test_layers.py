"""Imports point down: the order of rooms that docs/architecture.md draws."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "dirformer"
LAYERS = (
    {"errors", "files", "device", "memory", "photo", "journal", "native"},
    {"networks", "degradations", "catalog"},
    {"data", "checkpoints", "convert"},
    {"training", "inference"},
    {"evaluation"},
    {"cli", "app", "hub", "spandrel", "__init__", "__main__"},
)
# Within these two layers rooms may lean on one another; elsewhere they are strangers.
NEIGHBOURS = {0, 2, 5}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if name in rooms)


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dirformer":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return {n for n in names if any(n in rooms for rooms in LAYERS)}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """A file imports its own room and rooms of lower layers, never higher ones."""
    own = room(path)
    for other in imported_rooms(path) - {own}:
        same = layer(other) == layer(own) and layer(own) in NEIGHBOURS
        assert layer(other) < layer(own) or same, f"{own} imports {other}"
