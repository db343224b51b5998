"""What the commands write: lines for people, errors, JSON, progress with an ETA."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def forgive_terminals() -> None:
    """Let no character of ours end the program: a console without it shows `?`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


_names: dict[str, str] = {}


@contextmanager
def naming(names: dict[str, str]) -> Iterator[None]:
    """Within the block, say the second name of each pair wherever the first would be said or written."""
    before = dict(_names)
    _names.update(names)
    try:
        yield
    finally:
        _names.clear()
        _names.update(before)


def named(value: T) -> T:
    """Return a text, or a JSON value with all texts in it, by the names of `naming`."""
    found: Any = value
    if isinstance(value, str):
        for name, other in _names.items():
            found = found.replace(name, other)
    elif isinstance(value, dict):
        found = {key: named(each) for key, each in value.items()}
    elif isinstance(value, list):
        found = [named(each) for each in value]
    result: T = found
    return result


def visible(text: str) -> str:
    r"""Return text in which control characters are written out, `\x1b` for an escape: a terminal obeys none.

    So are those that turn the direction of writing or end a line. Spaces of all kinds and joiners of letters
    stay; bytes that are no text are left to the terminal's own mark.
    """
    return "".join(
        c if c.isprintable() or _harmless(c) else c.encode("unicode_escape").decode() for c in text
    )


def _harmless(character: str) -> bool:
    return unicodedata.category(character) in ("Zs", "Cs") or character in "\u200c\u200d"


def say(line: str) -> None:
    """Print a line for people."""
    print(visible(named(line)), flush=True)  # noqa: T201


def say_table(text: str) -> None:
    """Print lines that were laid out as a table."""
    for line in text.split("\n"):
        say(line)


def say_aside(line: str) -> None:
    """Print a line for people on standard error, where standard output is a result's."""
    print(visible(named(line)), file=sys.stderr, flush=True)  # noqa: T201


def complain(line: str) -> None:
    """Print an error: one line on standard error."""
    print(f"dirformer: {visible(' '.join(named(line).split()))}", file=sys.stderr, flush=True)  # noqa: T201


def write_json(path: Path | None, value: dict[str, Any]) -> None:
    """Write a result for machines, if a file was asked for."""
    from dirformer.ground.paths import atomic_path

    if path is not None:
        with atomic_path(path) as part:
            part.write_text(json.dumps(named(value), indent=2) + "\n", encoding="utf-8")


def progress(records: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass records through, with a bar and an ETA where somebody is looking."""
    with progress_bar(total, label) as show:
        for done, record in enumerate(records, start=1):
            yield record
            show(float(done))


@contextmanager
def progress_bar(total: int, label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar and an ETA where somebody is looking; yield the function that moves it."""
    with open_bar(total, label) as bar:
        yield lambda done: bar(float(done))


class Bar:
    """A bar that is moved by calling it; how much there is may be said later."""

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update

    def __call__(self, done: float) -> None:
        self._update(completed=done)

    def expect(self, total: int) -> None:
        """Say how much there is in all."""
        self._update(total=total)


@contextmanager
def open_bar(total: int | None, label: str) -> Iterator[Bar]:
    """Show a bar where somebody is looking; without `total` the ETA comes when it is said."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    count = TextColumn("{task.completed:.0f}/{task.total}")
    # A label may be a file's name: no markup of rich's either.
    label = visible(label)
    columns = (
        TextColumn(label.replace("{", "{{").replace("}", "}}"), markup=False),
        BarColumn(),
        TaskProgressColumn(),
        count,
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield Bar(functools.partial(bar.update, task))
