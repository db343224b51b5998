"""What callers give, checked by one rule for each kind of value.

A ConfigError says what came and what was expected. NumPy's numbers are numbers; True and False are none. What
is returned is Python's own, so that options can be written as JSON.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from dirformer.ground.errors import ConfigError

T = TypeVar("T")
LEAST_SEED, MOST_SEED = -(2**63), 2**63 - 1


def refused(name: str, value: object, expected: str) -> ConfigError:
    """Return the error for a value that is not what was expected, in one line."""
    from dirformer.ground.yaml_text import cut, short  # YAML is not loaded for arguments that are right

    return ConfigError(f"{name} is {cut(short(value))}; expected {expected}")


def whole(
    name: str, value: object, least: int | None = None, most: int | None = None, *, of: str = ""
) -> int:
    """Return a whole number from `least` to `most`, both included.

    Args:
        name: of the argument.
        value: what was given.
        least: None is without end.
        most: None is without end; else there is a least, too.
        of: what is counted, for the message.

    Raises:
        ConfigError: for anything else, also for 2.0.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if (least is None or least <= number) and (most is None or number <= most):
            return number
    expected = f"a whole number of {of}" if of else "a whole number"
    if most is not None:
        expected += f", {least} to {most}" if of else f" of {least} to {most}"
    elif least is not None:
        expected += f", at least {least}"
    raise refused(name, value, expected)


def seed(value: object) -> int:
    """Return a seed, a whole number of at most 64 bits. Raises ConfigError for anything else."""
    try:
        return whole("seed", value, LEAST_SEED, MOST_SEED)
    except ConfigError:
        raise refused("seed", value, "a whole number of at most 64 bits") from None


def number(name: str, value: object, fits: Callable[[float], bool], expected: str) -> float:
    """Return a number that fits.

    Args:
        name: of the argument.
        value: what was given.
        fits: says whether a number does; a comparison, so that NaN does not.
        expected: says in words what fits.

    Raises:
        ConfigError: for anything else, also for text.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = float("nan")
        if fits(found):
            return found
        value = int(found) if found.is_integer() else value  # 99.0 is what became of 99
    raise refused(name, value, expected)


def flag(name: str, value: object) -> bool:
    """Return True or False. Raises ConfigError for anything else: the text `no` would count as true."""
    # NumPy's truth values are told by their name, so that NumPy need not be imported.
    if isinstance(value, bool) or f"{type(value).__module__}.{type(value).__name__}" in (
        "numpy.bool",
        "numpy.bool_",
    ):
        return bool(value)
    raise refused(name, value, "True or False")


def text(name: str, value: object) -> str:
    """Return a text. Raises ConfigError for anything else."""
    if not isinstance(value, str):
        raise refused(name, value, "text")
    return value


def choice(name: str, value: object, choices: Collection[str | None]) -> Any:
    """Return one of some words, or None if it is among them. Raises ConfigError for anything else."""
    if (value is None or isinstance(value, str)) and value in choices:
        return value
    raise refused(name, value, f"one of {', '.join(word for word in choices if word)}")


def path(name: str, value: object) -> Path:
    """Return the name of a file or folder, given as text or Path. Raises ConfigError for anything else."""
    if not isinstance(value, str | Path):
        raise refused(name, value, "the name of a file or folder, as text or a Path")
    if "\0" in str(value):
        raise refused(name, str(value), "a name without the character NUL")
    try:
        Path(value).stat()
    except OSError as error:
        # Others say what is missing, and where to write.
        if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
            raise refused(name, str(value), f"a name that can be looked up: {error.strerror}") from None
    return Path(value)


def instance(name: str, value: object, kind: type[T]) -> T:
    """Return an instance of a class. Raises ConfigError for anything else."""
    if not isinstance(value, kind):
        raise refused(name, value, f"{kind.__name__}(…)")
    return value


def function(name: str, value: object) -> None:
    """Raise ConfigError unless the value can be called, or is None."""
    if value is not None and not callable(value):
        raise refused(name, value, "a function, or None")


def settle(options: object, **values: object) -> None:
    """Keep checked values in the fields of a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(options, name, value)
