"""YAML written by people: read within limits, refused in one short line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dirformer.ground.errors import ConfigError
from dirformer.ground.paths import is_file

LARGEST = 2**20
"""Bytes of a file that is read."""
NODES = 20_000
"""Values of a document, those of aliases counted each time they are used."""
QUOTE = 80
"""Characters of somebody else's text that a message quotes."""

Place = tuple[str, ...]
"""Keys from the top of a document down to a value; an entry of a list has the key `-`."""


def short(value: object) -> str:
    """Return a value as a message quotes it: on one line, at most 80 characters."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = QUOTE
    try:
        return cut(shortened.repr(value))
    except ValueError:  # whole numbers of thousands of digits have no text
        return "a very long number"


def cut(text: str, limit: int = QUOTE) -> str:
    """Return text on one line, at most `limit` characters."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def read_yaml_file(path: Path, source: str) -> str:
    """Return the text of a file; ConfigError if it is too large or is not UTF-8."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ConfigError(f"{source} has {size:,} bytes; expected YAML of at most {LARGEST:,}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror or error}") from None


def parse_yaml(text: str, source: str, is_text: Callable[[Place], bool] | None = None) -> Any:
    """Return the value of a YAML document.

    Args:
        text: the document.
        source: what to call it in messages, such as "recipe mine.yaml".
        is_text: says at which places a scalar is text even if it looks like a number or a date.

    Raises:
        ConfigError: one line, if it is no YAML, nested too deeply, refers to itself, or is too large.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, source, is_text)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{source} is not YAML: {place}{cut(error.problem or '')}") from None
    # Scalars with a tag of their own (!!int x) fail inside the library in several ways.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ConfigError(f"{source} is not YAML: {cut(str(error))}") from None


def find_yaml(name: str, shipped: Any, kind: str, names: list[str]) -> str:
    """Return the text of a shipped file of that name, or of the file at that path.

    Raises:
        ConfigError: if there is neither; the message lists the shipped `names`.
    """
    if name in names:
        return str((shipped / f"{name}.yaml").read_text(encoding="utf-8"))
    if not is_file(Path(name)):
        raise ConfigError(f"no {kind} {short(name)}; give a .yaml file or one of: {', '.join(names)}")
    return read_yaml_file(Path(name), f"{kind} {cut(name)}")


def _check(top: yaml.Node, source: str, is_text: Callable[[Place], bool] | None) -> None:
    """Refuse documents that are too large once aliases are written out; mark scalars that are text."""
    count = 0

    def visit(node: yaml.Node, place: Place, above: frozenset[int]) -> None:
        nonlocal count
        count += 1
        if id(node) in above:
            raise ConfigError(f"{source} has an alias that refers to itself")
        if count > NODES:
            raise ConfigError(f"{source} has more than {NODES:,} values")
        above = above | {id(node)}
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                visit(key, (*place, "?"), above)
                visit(value, (*place, str(key.value)), above)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                visit(value, (*place, "-"), above)
        elif is_text is not None and is_text(place) and not node.tag.endswith(":null"):
            node.tag = "tag:yaml.org,2002:str"

    visit(top, (), frozenset())
