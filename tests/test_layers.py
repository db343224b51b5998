"""Imports point down, and no file imports itself through others: what docs/develop/architecture.md draws."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "dirformer"
LAYERS = (
    {"ground"},
    {"tasks"},
    {"networks", "degradations"},
    {"kernels", "weights", "data"},
    {"holes"},
    {"metrics", "training", "inference"},
    {"evaluation", "interop", "spandrel", "video"},
    {"experiments", "app", "fleet"},
    {"cli", "__init__", "__main__"},
)
# The package's own root, whose `__version__` every room may read.
FACTS = {"__version__"}


def module_of(path: Path, root: Path) -> str:
    """The dotted name of a file, `__init__` left out."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def names_of(tree: ast.AST) -> Iterator[str]:
    """Every module of the package that a file imports, anywhere in it, in any spelling."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "dirformer")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dirformer":
            yield from (f"{node.module}.{a.name}" for a in node.names)


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Module → modules of the package it imports, names below a module cut off."""
    paths = {module_of(path, root): path for path in root.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        found[module] = set()
        for name in names_of(ast.parse(path.read_text())):
            assert not name.startswith("."), f"{path}: relative import {name}; write the whole name"
            parts = name.split(".")[1:]
            known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            target = next((k for k in known if k in paths), None)
            if target is None and not set(parts) <= FACTS:
                target = ""  # a public name of the root, which stands above all rooms
            if target is not None:
                found[module].add(target)
    return found


def layer(module: str) -> int:
    room = module.split(".", maxsplit=1)[0] or "__init__"
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of modules, or nothing."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if other != node and (found := walk(other, [*way, node])):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


@pytest.mark.parametrize("module", sorted(imports()))
def test_imports_point_down(module: str) -> None:
    """A file imports its own room and rooms of lower layers; rooms on one layer are strangers."""
    own = module.split(".", maxsplit=1)[0]
    for other in imports()[module]:
        doors = layer(module) == len(LAYERS) - 1  # the root, the command and `python -m` are one door
        if other.split(".")[0] != own:
            assert layer(other) < layer(module) or doors, f"{module} imports {other or 'the root'}"


def test_no_circles() -> None:
    """No file imports itself through others, not even inside one room or inside a function."""
    assert circle(imports()) == []


def test_networks_stand_alone() -> None:
    """The networks' room knows the ground, the tasks and itself: a definition, without any backend."""
    for module, others in imports().items():
        if module.startswith("networks"):
            assert {other.split(".")[0] for other in others} <= {"networks", "ground", "tasks"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import dirformer.cli", {"cli"}),
        ("import dirformer.training.loop as x", {"training.loop"}),
        ("from dirformer import cli", {"cli"}),
        ("from dirformer import Restorer", {""}),
        ("from dirformer import __version__", set()),
        ("def f():\n    from dirformer.training import loop", {"training.loop"}),
        ("from dirformer.training.loop import train", {"training.loop"}),
    ],
)
def test_every_spelling_is_seen(text: str, seen: set[str], tmp_path: Path) -> None:
    """Root imports, plain imports, names, modules and imports inside functions all count."""
    for name in ("cli/__init__.py", "training/__init__.py", "training/loop.py", "ground/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ground/a.py").write_text(text)
    assert imports(tmp_path)["ground.a"] == seen


def test_a_circle_inside_a_room_is_found() -> None:
    """Three files in a circle are named in order."""
    graph = {"a.x": {"a.y"}, "a.y": {"a.z", "b"}, "a.z": {"a.x"}, "b": set()}
    assert circle(graph) == ["a.x", "a.y", "a.z", "a.x"]
