"""The options of a restorer are checked when they are made, wherever they come from."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dirformer.ground.errors import ConfigError
from dirformer.inference.jobs import FileOptions
from dirformer.inference.options import RestoreOptions
from dirformer.inference.restorer import Restorer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"precision": "int8"},
            "precision is 'int8'; expected one of float32, tf32, bfloat16, float16, auto",
        ),
        ({"storage": "8bit"}, "storage is '8bit'; expected one of 32bit, 16bit"),
        ({"context": "tiles"}, "context is 'tiles'; expected one of auto, image, window, window-prior"),
        ({"window": 0}, "window is 0; expected a whole number of pixels, at least 1"),
        ({"max_memory": "much"}, "'much' is no amount of memory"),
        ({"max_memory": 0}, "max_memory is 0; expected at least one byte"),
        ({"max_memory": "9" * 400}, "is no amount of memory"),
    ],
)
def test_wrong_options_are_named(fields: dict[str, object], message: str) -> None:
    """Field, value and rule, before any file is read."""
    for make in (lambda: RestoreOptions(**fields), lambda: Restorer("none", **fields)):
        with pytest.raises(ConfigError, match=message):
            make()


def test_options_are_frozen() -> None:
    """Nobody changes them from outside."""
    options = RestoreOptions(max_memory="2GiB")
    assert options.limit == 2**31
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.precision = "float16"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feather": 100_000_000}, "feather is 100000000; expected a whole number of pixels, 0 to 65535"),
        ({"dilate": -1}, "dilate is -1; expected a whole number of pixels, 0 to 65535"),
        ({"quality": 0}, "quality is 0; expected a whole number of 1 to 100"),
        ({"box": (0, 0)}, "a side of box is 0; expected a whole number of pixels, 1 to 999999"),
        ({"box": (None, None)}, r"box is \(None, None\); expected \(width, height\) in pixels"),
        ({"extend": (0, 0, 0, -1)}, "a number of extend is -1; expected a whole number of pixels"),
        ({"scale": 99.0}, "scale is 99; expected a factor above 0 and at most 16"),
    ],
)
def test_wrong_file_options_are_named(fields: dict[str, Any], message: str) -> None:
    """So are those of files; `tests/test_bad_arguments.py` has other types."""
    with pytest.raises(ConfigError, match=message):
        FileOptions(**fields)


def test_unknown_options_are_named() -> None:
    """With the nearest that there is."""
    with pytest.raises(ConfigError, match="no option 'max_mem'; the nearest valid one is 'max_memory'"):
        Restorer("sr-x4-compact", max_mem="1GiB")
