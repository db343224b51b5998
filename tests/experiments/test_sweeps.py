"""Sweeps: a list of rows is trained, resumed, scored on the same photos and compared pair by pair."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dirformer.evaluation.count import count_parts, total
from dirformer.experiments.sweeps import Sweep, as_csv, as_markdown, on_one_device, sweep_names
from dirformer.experiments.validation import Validation
from dirformer.ground.errors import ConfigError
from dirformer.networks.diffir import DiffIRS2
from dirformer.networks.presets import PRESETS
from dirformer.networks.prior import beta_schedule, solve_beta_end
from dirformer.training.config import load_recipe
from dirformer.weights.checkpoints import save
from dirformer.weights.load import load
from helpers import FABRIC_WARNINGS, TINY_INPAINTING, TINY_SR, dirformer, picture, tiny

pytestmark = FABRIC_WARNINGS


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Photos to train and validate on, a recipe of each stage, a sweep over them."""
    for folder, seeds in (("photos", (0, 1)), ("val", (2, 3, 4))):
        (tmp_path / folder).mkdir()
        for i in seeds:
            picture(96, 96, seed=i).save(tmp_path / folder / f"{i}.png")
    for stage in (1, 2):
        values: dict[str, Any] = {
            "name": f"stage{stage}",
            "stage": stage,
            "model": TINY_SR.to_dict(),
            "data": {
                "train": str(tmp_path / "photos"),
                "val": str(tmp_path / "val"),
                "patch": 8,
                "batch": 2,
                "val_crop": 64,
            },
            "optimiser": {"lr": 2e-3, "schedule": "constant"},
            "steps": 2,
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "log": [],
        }
        (tmp_path / f"stage{stage}.yaml").write_text(yaml.safe_dump(values))
    second = {"recipe": str(tmp_path / "stage2.yaml"), "stage1": "run:S1"}
    rows = [
        {"name": "V3", "seeds": [0, 1]} | second,
        {"name": "V1", "model.timesteps": 0} | second,
        {"name": "S1", "recipe": str(tmp_path / "stage1.yaml")},
    ]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(rows))
    return tmp_path


def test_a_sweep_trains_its_rows_and_writes_the_table(room: Path) -> None:
    """Rows are trained from the row they name, for each seed, and scored in the order of the list."""
    lines: list[str] = []
    sweep = Sweep(str(room / "table.yaml"))
    result = sweep.run(lines.append)
    folder = room / "runs" / "table"
    assert sweep.folder == folder
    assert [row["name"] for row in result["rows"]] == ["V3", "V1", "S1"]
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {
        "V3-seed0",
        "V3-seed1",
        "V1-seed0",
        "S1-seed0",
    }
    assert load(folder / "V1-seed0" / "last.safetensors").config.timesteps == 0
    assert load(folder / "S1-seed0" / "last.safetensors").stage == 1
    # Scores are the validation's; the difference is paired with the mean over the first row's seeds.
    config = load_recipe(str(room / "stage2.yaml"))
    scores = {
        name: Validation(config).scores(load(folder / name / "last.safetensors"))
        for name in ("V3-seed0", "V3-seed1", "V1-seed0")
    }
    first = [(a + b) / 2 for a, b in zip(scores["V3-seed0"], scores["V3-seed1"], strict=True)]
    rows = result["rows"]
    assert rows[0]["by_photo"] == pytest.approx(first) and "difference" not in rows[0]
    expected = [a - b for a, b in zip(scores["V1-seed0"], first, strict=True)]
    assert rows[1]["difference"]["by_photo"] == pytest.approx(expected)
    low, high = rows[1]["difference"]["interval95"]
    assert min(expected) - 1e-9 <= low <= sum(expected) / 3 <= high <= max(expected) + 1e-9
    assert json.loads((folder / "table.json").read_text()) == json.loads(json.dumps(result))
    table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert len(table) == 9 and table[0]["photo"] == "2.png"
    assert (folder / "table.md").read_text() == as_markdown(result)

    lines.clear()
    assert Sweep(str(room / "table.yaml")).run(lines.append) == result
    assert lines[:2] == ["S1-seed0: finished before", "V3-seed0: finished before"]
    with pytest.raises(ConfigError, match="holds a run with optimiser"):
        Sweep(str(room / "table.yaml"), ["optimiser.lr=1e-4"]).run(lines.append)


def test_overrides_reach_all_rows_or_one(room: Path) -> None:
    """`steps=3` is for every row, `V1.steps=4` for one; `S1.weights=FILE` is only scored."""
    save(room / "s1.safetensors", tiny(stage=1))
    sweep = Sweep(
        str(room / "table.yaml"),
        ["steps=3", "V1.steps=4", f"S1.weights={room / 's1.safetensors'}", "seeds=[5]"],
    )
    assert {n: [(c.steps, c.seed) for c in cs] for n, cs in sweep.configs.items()} == {
        "V3": [(3, 5)],
        "V1": [(4, 5)],
    }
    assert sweep.configs["V3"][0].stage1 == room / "s1.safetensors"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["V9.steps=3"], "no row or field V9"),
        (["step=3"], "unknown field step; the nearest valid one is steps"),
        (["steps"], "is not key=value or ROW.key=value"),
        (["data.val=null"], "data.val is not set"),
        (["V3.seeds=3"], "row V3: seeds is 3"),
        (["name=other"], "name cannot be changed"),
        (["V1.seeds=[0,0]"], "expected each number once"),
        (["V1.seeds=[-1]"], "recipe stage2: seed is -1"),
        (["V1.seeds=[4294967296]"], "recipe stage2: seed is 4294967296"),
        (["V1.stage1=run:V3"], "starts from run:V3; expected a row that starts from none"),
    ],
)
def test_wrong_sweeps_are_one_line(room: Path, overrides: list[str], message: str) -> None:
    """What is wrong with a list, a row or an override is said before anything is trained."""
    with pytest.raises(ConfigError, match=message) as error:
        Sweep(str(room / "table.yaml"), overrides)
    assert "\n" not in str(error.value)
    assert not (room / "runs").exists()


@pytest.mark.parametrize("change", ["data.train", "B.data.patch"])
def test_rows_of_other_data_are_refused(room: Path, change: str) -> None:
    """A finished row does not stand for one on other photos or patches; what no sample shows may change."""
    rows = [{"name": name, "recipe": str(room / "stage1.yaml"), "steps": 1} for name in "AB"]
    (room / "two.yaml").write_text(yaml.safe_dump(rows))
    Sweep(str(room / "two.yaml")).run(lambda _: None)
    table = (room / "runs" / "two" / "table.json").read_text()
    value = room / "val" if change == "data.train" else 16
    lines: list[str] = []
    with pytest.raises(ConfigError, match=rf"-seed0 holds a run with {change.removeprefix('B.')} = .*out="):
        Sweep(str(room / "two.yaml"), [f"{change}={value}"]).run(lines.append)
    assert not lines and (room / "runs" / "two" / "table.json").read_text() == table
    Sweep(str(room / "two.yaml"), ["data.cache=1", "data.val_crop=32"]).run(lines.append)
    assert lines[:2] == ["A-seed0: finished before", "B-seed0: finished before"]


def test_the_command_trains_a_sweep(room: Path) -> None:
    """`dirformer train --sweep FILE key=value` prints the table and where it is."""
    outcome = dirformer("train", "--sweep", room / "table.yaml", "V3.seeds=[0]", "steps=1")
    assert outcome.returncode == 0, outcome.stderr
    assert "| V1 |" in outcome.stdout and "table.md" in outcome.stdout
    assert dirformer("train", "--sweep", "table9").stderr.startswith("dirformer: no sweep 'table9'")
    assert "needs a recipe" in dirformer("train").stderr


def test_the_shipped_sweeps_are_the_papers() -> None:
    """Table 4's variants, Table 5's losses and Fig. 6's chains, each from one stage 1 with the same steps."""
    assert sweep_names() == ["design", "equal-time", "figure6", "literal", "table4", "table5", "worth"]
    sweeps = {name: Sweep(name, ["data.train=DIR", "data.val=DIR"]) for name in sweep_names()}
    variants = {n: c[0] for n, c in sweeps["table4"].configs.items()}
    assert variants["V1"].network_config.timesteps == 0 and variants["V2"].training == "separate"
    assert variants["V4"].network_config.reverse_noise and variants["S1"].stage == 1
    assert all(len(c) == (1 if n == "S1" else 3) for n, c in sweeps["table4"].configs.items())
    kinds = {n: c[0].loss.prior_kind for n, c in sweeps["table5"].configs.items()}
    assert kinds == {"L1": "l1", "L2": "l2", "KL": "kl"}
    for sweep in sweeps.values():
        second = [c for cs in sweep.configs.values() for c in cs if c.stage == 2]
        assert len({(c.steps, str(c.stage1), c.data) for c in second}) == min(1, len(second))


def test_the_design_sweep_compares_networks_of_one_cost() -> None:
    """Every row costs 0.89 to 1.07 G Mult-Adds at 64×64 and makes as many steps."""
    for configs in Sweep("design", ["data.train=DIR", "data.val=DIR"]).configs.values():
        network = configs[0].network_config
        cost = total(count_parts(DiffIRS2(network), 64, 64), network.timesteps).mult_adds
        assert 0.89e9 < cost < 1.07e9 and configs[0].steps == 700


def test_a_sweep_can_be_of_another_task() -> None:
    """`worth` compares any compact model with and without its IPR: recipes are given beside it."""
    given = ["recipe=inpainting-compact-stage2", "oracle.recipe=inpainting-compact-stage1"]
    sweep = Sweep("worth", [*given, "data.train=DIR", "data.val=DIR"])
    configs = {name: rows[0] for name, rows in sweep.configs.items()}
    assert {c.network_config.task for c in configs.values()} == {"inpainting"}
    assert [c.stage for c in configs.values()] == [2, 2, 2, 1]
    assert len({c.steps for c in configs.values()}) == 1
    assert configs["constant"].network_config.condition == "constant"


def test_chains_of_other_lengths_keep_the_signal() -> None:
    """Fig. 6: the sweep's β_T leave ᾱ_T = 0.0026 as T = 4 does, and are what the solver gives."""
    for name, (config,) in Sweep("figure6", ["data.train=DIR", "data.val=DIR"]).configs.items():
        network = config.network_config
        assert name == f"T{network.timesteps}"
        betas = beta_schedule(network.timesteps, network.beta_start, network.beta_end, "sqrt").tolist()
        signal = 1.0
        for beta in betas:
            signal *= 1 - beta
        assert signal == pytest.approx(0.0026, abs=5e-6)
        assert network.beta_end == pytest.approx(solve_beta_end(network.timesteps), abs=1e-6)
    assert solve_beta_end(1) == pytest.approx(0.9974, abs=5e-6)
    for timesteps, kind in ((16, "sqrt"), (32, "sqrt"), (5, "linear")):
        end = solve_beta_end(timesteps, kind=kind)
        left = torch.prod(1 - beta_schedule(timesteps, PRESETS["sr-x4"].beta_start, end, kind))
        assert float(left) == pytest.approx(0.00259804, rel=1e-5)


def test_names_from_outside_stay_text_in_the_tables():
    """A row's or a photo's name is no formula in the CSV, and no markup or further cell in the Markdown."""
    row = {"mean": 30.0, "interval95": [29.0, 31.0], "by_seed": [30.0], "by_photo": [30.0], "parameters": 7}
    result = {"score": "psnr_y", "photos": ["=1+1.png"], "rows": [{"name": "a|<b>", **row}]}
    assert list(csv.reader(as_csv(result).splitlines()))[1] == ["a|<b>", "'=1+1.png", "30.0"]
    line = as_markdown(result).splitlines()[2]
    assert line.startswith("| a\\|&lt;b&gt; | 30.000 |") and "<b>" not in as_markdown(result)


def test_recipes_of_any_device_count_are_swept() -> None:
    """Eight devices become eight passes of one: as many photos in a step, and the pool holds whole steps."""
    for name in ("realsr-x4-paper-stage1", "realsr-x4-stage1", "inpainting-celeba-stage1"):
        recipe = load_recipe(name)
        one = on_one_device(recipe)
        assert (one.devices, one.nodes) == (1, 1)
        assert one.data.batch * one.accumulate == recipe.data.batch * 8
        assert one.data.pool >= recipe.data.pool and one.data.pool % (one.data.batch * one.accumulate) == 0
    assert on_one_device(recipe.model_copy(update={"devices": "auto"})).accumulate == 1


def test_fid_stands_in_the_table_where_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inpainting sweeps score FID of whole photos for each kind of mask; without the file they say so."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        picture(64, 64, seed=i).save(photos / f"{i}.png")
    for name in ("a", "b"):
        save(tmp_path / f"{name}.safetensors", tiny(TINY_INPAINTING, seed=ord(name)))
    rows = [
        {"name": n, "recipe": "inpainting-compact-stage2", "weights": str(tmp_path / f"{n}.safetensors")}
        for n in ("a", "b")
    ]
    source = tmp_path / "sweep.yaml"
    source.write_text(yaml.safe_dump(rows))
    overrides = [f"data.val={photos}", f"out={tmp_path}", "data.val_crop=64", "device=cpu"]
    lines: list[str] = []
    monkeypatch.setenv("DIRFORMER_METRIC_WEIGHTS", str(tmp_path / "nothing"))
    assert "fid" not in Sweep(str(source), overrides).score(lines.append)["rows"][0]
    assert any("fid is left out" in line for line in lines)
    # Random Inceptions hardly tell photos apart: means of the quarters stand in for its features.
    monkeypatch.setattr(
        "dirformer.experiments.sweeps.inception",
        lambda: lambda photo: photo.unfold(1, 32, 32).mean((0, 2, 3)),
    )
    result = Sweep(str(source), overrides).score(lines.append)
    assert set(result["rows"][0]["fid"]) == {"fid_thick", "fid_thin"}
    assert 0 < result["rows"][0]["fid"]["fid_thin"] != result["rows"][1]["fid"]["fid_thin"] > 0
    table = as_markdown(result)
    assert "fid_thick" in table and f"{result['rows'][1]['fid']['fid_thin']:.4f}" in table
