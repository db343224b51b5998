"""The command line as users script it: verbs, options, messages, exit codes, JSON. A change here is a
change for users: it belongs into the changelog."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer.main
from PIL import Image

from dirformer import __version__
from dirformer.cli import VERBS, app
from dirformer.weights.checkpoints import HEADER, save
from helpers import SRC, TINY_INPAINTING, dirformer, picture, tiny

VERB_OPTIONS = {
    "restore": {
        "--out",
        "--task",
        "--model",
        "--mask",
        "--scale",
        "--seed",
        "--device",
        "--precision",
        "--overwrite",
    },
    "train": {"--minutes"},
    "evaluate": {"--lq", "--gt", "--protocol", "--seed", "--device", "--precision", "--json"},
    "convert": {"--out", "--task", "--teacher", "--overwrite"},
    "models": {"--json"},
    "export": {"--to", "--out", "--precision", "--seed", "--overwrite", "--json"},
    "degrade": {"--out", "--kind", "--scale", "--frames", "--seed", "--overwrite"},
    "masks": {"--out", "--kind", "--size", "--count", "--photos", "--seed", "--overwrite"},
    "prepare": {
        "--out",
        "--workers",
        "--shards",
        "--per-shard",
        "--cut",
        "--multiscale",
        "--partial",
        "--overwrite",
        "--json",
    },
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "sr.safetensors", tiny())
    save(folder / "inpainting.safetensors", tiny(TINY_INPAINTING))
    return folder


def test_verbs_and_options_stay() -> None:
    """Each verb has at least the options that scripts use by now, and a sentence of help."""
    commands = typer.main.get_command(app).commands
    assert set(VERB_OPTIONS) <= set(commands) == set(VERBS)
    for verb, options in VERB_OPTIONS.items():
        names = {name for parameter in commands[verb].params for name in parameter.opts}
        assert options <= names, verb
        assert commands[verb].help


def test_version_and_help() -> None:
    """`--version` prints the version, `--help` the verbs; both succeed."""
    result = dirformer("--version")
    assert (result.returncode, result.stdout.strip()) == (0, f"dirformer {__version__}")
    result = dirformer("--help")
    assert result.returncode == 0 and all(verb in result.stdout for verb in VERBS)


def test_a_photo_is_restored(tmp_path: Path, weights: Path) -> None:
    """One photo, one file: four times as large, written whole, said in one line."""
    picture(20, 12).save(tmp_path / "in.png")
    result = dirformer(
        "restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", weights / "sr.safetensors"
    )
    assert result.returncode == 0, result.stderr
    assert "sr ×4 on" in result.stdout and "in.png →" in result.stdout
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (80, 48)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_results_do_not_depend_on_name_order_or_company(tmp_path: Path, weights: Path) -> None:
    """The same photo gives the same bytes under another name and among other photos."""
    for i, name in enumerate(("a", "b")):
        picture(20, 12, seed=i).save(tmp_path / f"{name}.png")
    (tmp_path / "z.png").write_bytes((tmp_path / "a.png").read_bytes())
    model = ("--model", weights / "sr.safetensors")
    dirformer("restore", tmp_path, "-o", tmp_path / "all", *model)
    dirformer("restore", tmp_path / "b.png", tmp_path / "a.png", "-o", tmp_path / "two", *model)
    a = (tmp_path / "all" / "a.png").read_bytes()
    assert (tmp_path / "all" / "z.png").read_bytes() == a
    assert (tmp_path / "two" / "a.png").read_bytes() == a
    dirformer("restore", tmp_path / "a.png", "-o", tmp_path / "seed", "--seed", 1, *model)
    assert (tmp_path / "seed" / "a.png").read_bytes() != a


def test_bad_photos_do_not_stop_good_ones(tmp_path: Path, weights: Path) -> None:
    """Three good photos and two bad ones: three results, two lines, exit code 2."""
    folder = tmp_path / "in"
    folder.mkdir()
    picture(16, 16).save(folder / "one.png")
    picture(1, 1).save(folder / "pixel.bmp")
    picture(16, 16, mode="L").save(folder / "grey.JPG", format="jpeg")
    (folder / "text.png").write_text("not a photo")
    (folder / "cut.jpg").write_bytes((folder / "grey.JPG").read_bytes()[:300])
    (folder / "notes.txt").write_text("left alone")
    result = dirformer("restore", folder, "-o", tmp_path / "out", "--model", weights / "sr.safetensors")
    assert result.returncode == 2
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [".dirformer.jsonl", "grey.JPG", "one.png", "pixel.bmp"]
    assert "3 restored, 0 skipped, 2 failed; 1 passed over: 1 .txt" in result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("dirformer: ") for line in lines)
    assert any("text.png is not a photo" in line for line in lines)
    assert any("cut.jpg is damaged" in line for line in lines)
    with Image.open(tmp_path / "out" / "grey.JPG") as grey:
        assert grey.mode == "L"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "-o", "out.png"], "missing.png is not there"),
        (["empty.png", "-o", "out.png"], "empty.png is empty"),
        (["in.png", "-o", "in.png"], "in.png exists already and is one of the photos"),
        (["in.png", "-o", "in.png", "--overwrite"], "--in-place to replace photos"),
        (["in.png", "-o", "nowhere://out.png"], "nowhere:// is not known"),
        (["in.png", "-o", "https://host.example/out.png"], "can only be read"),
        (["in.png", "-o", "out.png", "--task", "deblur"], "the nearest is 'deblurring'"),
        (["in.png", "-o", "out.png", "--precision", "int4"], "precision is 'int4'"),
        (["in.png", "-o", "out.png", "--context", "all"], "context is 'all'"),
        (["in.png", "-o", "out.png", "--max-memory", "much"], "no amount of memory"),
        (["in.png", "-o", "out.png", "--size", "large"], "expected 1920x, x1080 or 1920x1080"),
        (["in.png", "-o", "out.png", "--scale", "17"], "at most 16"),
        (["in.png", "-o", "out.png", "--scale", "2", "--size", "9x"], "leave --scale or --size out"),
        (["in.png", "-o", "out.png", "--strength", "1.5"], "expected 0 (the input) to 1"),
        (["in.png", "-o", "out.png", "--samples", "0"], "whole number of draws, 1 to 1000"),
        (["in.png", "-o", "out.png", "--workers", "-1"], "workers is -1"),
        (["in.png", "-o", "out.png", "--prior", "none.safetensors"], "--prior"),
        (["@none.txt", "-o", "out"], "the list"),
        (["in.png", "-", "-o", "out.png"], "- stands for one photo"),
        (["-o", "out.png"], "no photos are given"),
        (["in.png", "-o", "out.gif"], "has no photo suffix"),
        (["in.png", "in.png", "-o", "out.png"], "cannot go into the one file"),
        (["nothing", "-o", "out"], "no photos in"),
        (["in.png", "-o", "out.png", "--task", "deblurring"], "--task is deblurring, but"),
        (["in.png", "-o", "out.png", "--mask", "in.png"], "leave --mask out"),
        (["in.png", "-o", "out.png", "--device", "abacus"], "device 'abacus' is not available"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_code_2(
    tmp_path: Path, weights: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be done is said in one line; nothing is written."""
    monkeypatch.chdir(tmp_path)
    picture(8, 8).save(tmp_path / "in.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "nothing").mkdir()
    before = sorted(tmp_path.iterdir())
    result = dirformer("restore", *arguments, "--model", weights / "sr.safetensors")
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Unknown names list the models there are; foreign files say how to convert them."""
    picture(8, 8).save(tmp_path / "in.png")
    (tmp_path / "w.safetensors").write_text("nonsense")
    for model, message in (
        ("sr-x9", "one of: sr-x4-compact"),
        (tmp_path / "w.safetensors", "dirformer convert"),
    ):
        result = dirformer("restore", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", model)
        assert result.returncode == 2 and message in result.stderr


def test_inpainting_with_a_mask(tmp_path: Path, weights: Path) -> None:
    """A mask file for one photo, a folder of masks for many; a photo without its mask is named."""
    for name in ("a", "b"):
        picture(16, 16).save(tmp_path / f"{name}.png")
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    mask.save(tmp_path / "masks" / "a.png")
    model = ("--model", weights / "inpainting.safetensors")
    result = dirformer(
        "restore", tmp_path / "a.png", "-o", tmp_path / "o.png", "--mask", tmp_path / "masks/a.png", *model
    )
    assert result.returncode == 0, result.stderr
    result = dirformer("restore", tmp_path, "-o", tmp_path / "out", "--mask", tmp_path / "masks", *model)
    assert result.returncode == 2 and "b.png has no mask of the same name" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".dirformer.jsonl", "a.png"]


def test_an_interrupted_run_leaves_no_half_file(tmp_path: Path, weights: Path) -> None:
    """Ctrl-C in the middle of a folder: exit code 130, whole files only."""
    folder, count = tmp_path / "in", 400  # more than are done while a crowded machine delays the signal
    folder.mkdir()
    picture(96, 96).save(folder / "000.png")
    for i in range(1, count):
        shutil.copy(folder / "000.png", folder / f"{i:03}.png")
    command = [sys.executable, "-m", "dirformer", "restore", str(folder), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--model", str(weights / "sr.safetensors")],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip().endswith("dirformer: interrupted")
    results = list((tmp_path / "out").iterdir())
    results = [p for p in results if p.name != ".dirformer.jsonl"]
    assert 0 < len(results) < count
    assert all(p.suffix == ".png" and not p.name.startswith(".") for p in results)
    for path in results:
        with Image.open(path) as image:
            image.load()


def test_evaluation_json(tmp_path: Path, weights: Path) -> None:
    """The JSON of an evaluation has the form that scripts read."""
    for folder, size in (("lq", 8), ("gt", 32)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            picture(size, size).save(tmp_path / folder / f"{name}.png")
    out = tmp_path / "scores.json"
    arguments = ("--lq", tmp_path / "lq", "--gt", tmp_path / "gt", "--protocol", "sr", "--json", out)
    result = dirformer("evaluate", "bicubic", weights / "sr.safetensors", *arguments)
    assert result.returncode == 0, result.stderr
    scores = json.loads(out.read_text())
    assert (scores["schema"], scores["protocol"]) == (1, "sr")
    assert [m["model"] for m in scores["models"]] == ["bicubic", str(weights / "sr.safetensors")]
    for model in scores["models"]:
        assert [row["name"] for row in model["images"]] == ["a", "b"]
        assert set(model["images"][0]) >= {"name", "psnr_y", "ssim_y", "seconds"}
        assert set(model["mean"]) >= {"psnr_y", "ssim_y", "seconds"}
        assert len(model["interval95"]["psnr_y"]) == 2


def test_header_schema(weights: Path) -> None:
    """The header of a weight file has the fields that other tools read."""
    from safetensors import safe_open

    with safe_open(weights / "sr.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
        config = json.loads(bytes(file.get_tensor("config").tolist()))
        assert file.get_tensor("diffusion.betas").dtype == torch.float32
    assert set(header) == {"format", "stage", "config", "part", "inference", "provenance"}
    assert (header["format"], header["stage"]) == (2, 2)
    assert config == {"stage": 2, "config": header["config"]}
    assert header["config"]["task"] == "sr" and header["config"]["blocks"] == [1, 1, 1, 1]
