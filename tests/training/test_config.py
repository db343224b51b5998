"""Recipes: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dirformer.ground.errors import ConfigError
from dirformer.networks.config import PRESETS
from dirformer.training.config import load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    """A shipped recipe is called as its file is and trains the preset it names."""
    config = load_recipe(name)
    assert config.name == name and config.model in PRESETS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["step=3"], "unknown field step; the nearest valid one is steps"),
        (["data.pach=3"], "unknown field data.pach; the nearest valid one is patch"),
        (["steps=many"], "steps is 'many'"),
        (["optimiser.lr=-1"], "optimiser.lr is -1"),
        (["model=sr-x9"], "no preset 'sr-x9'"),
        (["model.dims=3"], "no field 'dims'; the nearest valid one is 'dim'"),
        (["steps"], "is not key=value"),
        (["steps.x=3"], "steps has no fields"),
    ],
)
def test_wrong_recipes_are_one_line(overrides: list[str], message: str) -> None:
    """Unknown keys are answered with the nearest valid one, wrong values with what was received."""
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe("sr-x4-compact-stage1", overrides)
    assert "\n" not in str(error.value)


def test_overrides_reach_nested_fields() -> None:
    """`model.dim=32` changes one field of the recipe's preset."""
    config = load_recipe("sr-x4-compact-stage1", ["model.dim=32", "data.batch=3", "data.train=DIR"])
    assert config.network_config.dim == 32 and config.network_config.tail == "direct"
    assert config.data.batch == 3 and config.data.train == Path("DIR")
