"""Fields of the page → options of the command line."""

from __future__ import annotations

import pytest

from dirformer.app.wishes import Limits, Wishes
from dirformer.ground.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "scale", "box"),
    [
        ("", None, None),
        ("2", 2.0, None),
        ("x4", 4.0, None),
        ("×1.5", 1.5, None),
        ("3x", 3.0, None),
        ("1920x", None, (1920, None)),
        ("x1080", None, (None, 1080)),
        (" 800 x 600 ".replace(" ", ""), None, (800, 600)),
    ],
)
def test_size(text: str, scale: float | None, box: tuple[int | None, int | None] | None) -> None:
    """A small number is a factor, a large one with an x is pixels."""
    files = Wishes(size=text).file_options(Limits())
    assert (files.scale, files.box) == (scale, box)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "99"}, "scale is 99; expected a factor above 0 and at most 16"),
        ({"size": "large"}, "--size is 'large'"),
        ({"seed": 1.5}, r"seed is 1\.5; expected a whole number"),
        ({"seed": float("nan")}, "seed is nan"),
        ({"samples": 99}, "samples is 99; expected a whole number of 1 to 16"),
        ({"extend": "1,2"}, "--extend is '1,2'; expected LEFT,TOP,RIGHT,BOTTOM"),
        ({"memory": "much"}, "'much' is no amount of memory"),
        ({"task": "../etc"}, r"no task '\.\./etc'"),
        ({"format": "exe"}, "format is 'exe'"),
        ({"quality": 101}, "quality is 101"),
        ({"dilate": -1}, "dilate is -1"),
    ],
)
def test_refusals(fields: dict[str, object], words: str) -> None:
    """What no field can hold is refused in one line, whoever sends it."""
    wishes = Wishes(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        (
            wishes.file_options(Limits()),
            wishes.restore_options(Limits()),
            wishes.seed_number,
            wishes.task_word,
        )


def test_memory_is_the_smaller_limit() -> None:
    """A visitor may ask for less memory than the page's owner allows, never for more."""
    limits = Limits(max_memory="1GiB")
    assert Wishes(memory="2GiB").restore_options(limits).limit == 2**30
    assert Wishes(memory="1MiB").restore_options(limits).limit == 2**20
    assert Wishes().restore_options(Limits()).limit is None
