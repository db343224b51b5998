"""The verbs of the evaluation room, as typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dirformer.evaluation.shapes import SHAPES
from evaluation.conftest import save_image, scene, tiny_model
from helpers import dirformer

SOURCE = Path(__file__).parents[2] / "src"


def run(*arguments: object, code: int = 0) -> str:
    """Run the command in a process of its own, as users do; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dirformer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_evaluate_report_and_plot(pairs: tuple[Path, Path], tmp_path: Path, sr_model: Path) -> None:
    """One table of three models, JSON, CSV and Markdown, then a page and a plot from it."""
    lq, gt = pairs
    out, keep = tmp_path / "r.json", tmp_path / "kept"
    text = run(
        "evaluate", sr_model, "bicubic", "lanczos", "--lq", lq, "--gt", gt, "--protocol", "sr", "--seeds", 2,
        "--device", "cpu", "--json", out, "--table", tmp_path / "r.csv", "--table", tmp_path / "r.md",
        "--save", keep, "--metric", "gmsd", "--all-variants",
    )  # fmt: skip
    assert "protocol sr" in text and "over 2 seeds" in text and "ssim_volume" in text
    result = json.loads(out.read_text())
    assert [entry["model"] for entry in result["models"]] == [str(sr_model), "bicubic", "lanczos"]
    assert set(result["models"][0]["mean"]) == {"psnr_y", "ssim_y", "gmsd", "seconds", "peak_mib"}
    assert (tmp_path / "r.csv").read_text().count("\n") == 7
    assert not list(tmp_path.glob(".*.jsonl"))
    assert "6 photos" in run("report", out, "-o", tmp_path / "r.html")
    assert "3 points" in run("compare", "-o", tmp_path / "c.png", "--plot", "cost", "--results", out)
    figure = tmp_path / "region.pdf"
    photo = ("--lq", lq / "meadow.png", "--gt", gt / "meadow.png")
    assert "1 methods" in run("compare", "bicubic", "-o", figure, *photo, "--region", "8,8,32,32")


def test_interrupted_evaluation_goes_on(pairs: tuple[Path, Path], tmp_path: Path, sr_model: Path) -> None:
    """Rows of an evaluation that failed half-way are kept beside the JSON and used by the next call."""
    lq, gt = pairs
    arguments = ("--lq", lq, "--gt", gt, "--protocol", "sr", "--json", tmp_path / "r.json", "--device", "cpu")
    original = (gt / "meadow.png").read_bytes()
    save_image(gt / "meadow.png", scene(9, 50, 50))
    assert "meadow.png" in run("evaluate", sr_model, *arguments, code=2)
    rows = (tmp_path / ".r.json.rows.jsonl").read_text().splitlines()
    assert len(rows) == 1
    (gt / "meadow.png").write_bytes(original)
    run("evaluate", sr_model, *arguments)
    finished = json.loads((tmp_path / "r.json").read_text())["models"][0]["images"]
    assert json.loads(rows[0])["row"] == finished[0]


def test_cost_command(tmp_path: Path) -> None:
    """The table names parts and the paper's figure; JSON has the counts."""
    text = run("cost", "inpainting", "--size", "256", "--no-measure", "--json", tmp_path / "c.json")
    assert "50.558" in text and "51.63 G" in text and "51.631" in text
    assert json.loads((tmp_path / "c.json").read_text())["total"]["parameters"] == 26_402_474
    for name in SHAPES:
        assert "written as shapes" in dirformer("cost", name).stdout
    assert "47.97 G" in dirformer("cost", "inpainting", "--stage", 1, "--no-measure").stdout
    model = tiny_model(tmp_path / "t.safetensors", task="deblurring")
    assert "640×360" in run("cost", model, "--size", "640x360", "--no-measure")
    assert "expected a number such as 256" in run("cost", model, "--size", "big", code=2)


def test_reproduce_command(tmp_path: Path) -> None:
    """Without data the command says what is missing, quotes the paper, and ends with 2."""
    text = run("reproduce", "table3", "--data", tmp_path, "--json", tmp_path / "t.json", code=2)
    assert "protocol deblurring" in text
    assert "table3 has nothing to measure" in text
    assert json.loads((tmp_path / "t.json").read_text())["target"] == "table3"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evaluate bicubic --lq x --gt y --protocol sr", "is not there"),
        ("evaluate bicubic --lq x --gt y --protocol sr --json r.txt", "no known suffix"),
        ("compare bicubic -o x.png", "compare needs models"),
        ("reproduce table7 --data .", "no table 'table7'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(arguments: str, words: str) -> None:
    """Stated errors are one line and exit code 2."""
    text = run(*arguments.split(), code=2)
    assert words in text
    assert text.count("\n") == 1
