"""Recipes: what is read, and what is refused in one line."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from dirformer.ground.errors import ConfigError
from dirformer.networks.presets import PRESETS
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
        (["data.pach=3"], "unknown field data.pach; the nearest valid one is data.patch"),
        (["lrate=3"], "unknown field lrate; the nearest valid one is optimiser.lr"),
        (["warmup.gama=3"], "unknown field warmup.gama; the nearest valid one is warmup.gamma"),
        (["optimiser.betas=[1.5,0.99]"], r"optimiser.betas.0 is 1.5"),
        (["discriminator.betas=[0,1]"], r"discriminator.betas.1 is 1"),
        (["optimiser.schedule=cycles"], "optimiser: schedule=cycles needs cycles, such as"),
        (["optimiser.cycles=[[0,1e-6]]"], "optimiser.cycles.0.0 is 0"),
        (["optimiser.milestones=[-1]"], "optimiser.milestones.0 is -1"),
        (["optimiser.gamma=-1"], "optimiser.gamma is -1"),
        (["warmup.gamma=0"], "warmup.gamma is 0"),
        (["loss.image=-1"], "loss.image is -1"),
        (["data.batch=1000000000000"], "data.batch is 1000000000000"),
        (["data.cache=1e300"], "data.cache is '1e300'"),
        (["data.fills=[]"], r"data.fills is \[\]"),
        (["data.masks=[]"], r"data.masks is \[\]"),
        (["data.val_masks=[]"], r"data.val_masks is \[\]"),
        (["data.progressive=[[1,8,0]]"], "patches of 8 to 65536 pixels and batches of 1 to 65536"),
        (["data.progressive=[[1,4,1]]"], "patches of 8 to 65536 pixels and batches of 1 to 65536"),
        (["data.crop=96", "data.progressive=[[1,16,8]]"], "data: progressive changes the patch"),
        (["data.pool=8", "data.progressive=[[1,48,4]]"], "data: pool holds pairs of one patch and batch"),
        (["data.pool=8", "data.progressive=[[1,16,8]]"], "data: pool holds pairs of one patch and batch"),
        (["data.val_lq=lq"], "data: val_lq has no effect without val"),
        (["warmup.steps=5"], "warmup.steps is of stage 2 and has no effect in stage 1"),
        (["training=separate"], "training=separate is of stage 2"),
        (["stage1=s1.safetensors"], "stage1 is of stage 2"),
        *(([f"name={name}"], "expected the name of a folder") for name in ("../x", "a/b", "..", "a\\b", " ")),
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


def test_what_follows_no_patch_may_change_its_batch() -> None:
    """A crop of its own goes with later batches; a pool with phases that keep both."""
    phases = ["data.progressive=[[1,48,4]]", "data.batch=8", "data.patch=48"]
    assert load_recipe("sr-x4-compact-stage1", ["data.crop=256", *phases]).data.phase_at(1)[2] == 4
    same = ["data.progressive=[[1,48,8]]", "data.batch=8", "data.patch=48", "data.pool=16"]
    assert load_recipe("sr-x4-compact-stage1", same).data.pool == 16


def test_a_changed_recipe_is_checked_like_a_file() -> None:
    """What a program sets has the bounds of what a person writes."""
    config = load_recipe("sr-x4-compact-stage1")
    assert config.changed(seed=3, name="b") == config.model_copy(update={"seed": 3, "name": "b"})
    with pytest.raises(ConfigError, match=r"recipe sr-x4-compact-stage1: seed is -1: Input should be"):
        config.changed(seed=-1)


def test_overrides_reach_nested_fields() -> None:
    """`model.dim=32` changes one field of the recipe's preset."""
    config = load_recipe("sr-x4-compact-stage1", ["model.dim=32", "data.batch=3", "data.train=DIR"])
    assert config.network_config.dim == 32 and config.network_config.tail == "direct"
    assert config.data.batch == 3 and config.data.train == Path("DIR")


HEAD = "name: r\nstage: 1\n"
MODEL = f"{HEAD}model: sr-x4-compact\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in itertools.pairwise("abcdefghi")
)
HOSTILE = {
    "list where a preset is expected": (f"{HEAD}model: {{preset: [1]}}", "model.preset is [1]"),
    "list of fields": ("[1, 2]", "has no fields"),
    "list for a section": (f"{MODEL}data: [1]", "data is [1]"),
    "nothing": ("", "has no fields"),
    "deep": (f"{HEAD}model: {'[' * 5000}", "is nested too deeply"),
    "bomb": (BOMB, "has more than 20,000 values"),
    "itself": ("name: &a {b: *a}", "has an alias that refers to itself"),
    "nan": (f"{MODEL}optimiser: {{gamma: .nan}}", "optimiser.gamma is nan"),
    "infinite text": (f"{MODEL}optimiser: {{lr: 1e400}}", "optimiser.lr is '1e400'"),
    "infinite": (f"{MODEL}loss: {{image: 1.0e+400}}", "loss.image is inf"),
    "code": ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "numbers for keys": (f"{MODEL}1: 2", "Keys should be strings"),
    "many digits": (f"{MODEL}steps: {'9' * 6000}", "is not YAML: Exceeds the limit"),
    "more digits": (f"{MODEL}steps: 0x{'f' * 6000}", "steps is "),
    "no date": (f"{MODEL}steps: 2024-13-45", "month must be in 1..12"),
    "megabytes quoted": (f"name: '{'y' * 500_000}", "line 1, column 500008: found unexpected end of stream"),
    "megabytes as a name": (f"name: *{'z' * 100_000}", "found undefined alias 'zzz"),
    "megabytes as a value": (f"{MODEL}stage: {'z' * 100_000}", "stage is 'zzz"),
    "much as a field": (f"{MODEL}{'z' * 1000}: 1", "unknown field zzz"),
    "too large": (f"name: {'y' * 2_000_000}", "has 2,000,006 bytes; expected YAML of at most 1,048,576"),
    "null byte": ("name: \0", "unacceptable character"),
    "unhashable key": ("? [a]\n: b", "found unhashable key"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_recipes_are_one_short_line(tmp_path: Path, kind: str) -> None:
    """Whatever a file holds, the error is one line that quotes little of it."""
    text, message = HOSTILE[kind]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_recipe(str(path))
    line = str(error.value).replace(str(path), "")
    assert "\n" not in line and len(line) < 300


def test_a_recipe_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    """Latin-1 is refused; a byte order mark is read over."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text; save it as UTF-8"):
        load_recipe(str(path))
    path.write_text(MODEL, encoding="utf-8-sig")
    assert load_recipe(str(path)).name == "r"


@pytest.mark.parametrize("name", ["a" * 5000, "x\0", "/"])
def test_what_is_no_name_of_a_file_is_no_recipe(name: str) -> None:
    """Names that no file can have give the message of any other missing recipe."""
    with pytest.raises(ConfigError, match=r"no recipe .*; give a .yaml file or one of:"):
        load_recipe(name)


@pytest.mark.parametrize("text", ["2024", "007", "1e3", "2024-01-31", "@photos", "a #2: b", "yes", "[1]"])
def test_what_looks_like_a_number_is_a_path_where_a_path_is_expected(tmp_path: Path, text: str) -> None:
    """On the command line, and (in quotes or not) in a recipe; the name of a run too."""
    config = load_recipe("sr-x4-compact-stage1", [f"data.train={text}", f"name={text}"])
    assert (config.data.train, config.name) == (Path(text), text)
    assert load_recipe("sr-x4-compact-stage1", [f'data.train="{text}"']).data.train == Path(text)
    if not set(text) & set("@#[:"):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"{HEAD}model: sr-x4-compact\ndata: {{train: {text}}}")
        assert load_recipe(str(path)).data.train == Path(text)


def test_a_path_can_be_taken_away() -> None:
    """`data.val=` and `data.val=null` leave validation out."""
    for text in ("", "null"):
        overrides = ["data.val=photos", f"data.val={text}"]
        assert load_recipe("sr-x4-compact-stage1", overrides).data.val is None
