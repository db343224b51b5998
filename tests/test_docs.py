"""What the documents say can be done can be done: links lead somewhere, commands and names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from dirformer.cli import app
from dirformer.experiments.sweeps import sweep_names
from dirformer.networks.config import ModelConfig
from dirformer.networks.presets import PRESETS
from dirformer.training.config import recipe_names
from dirformer.weights.catalog import CATALOG

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])


def commands(text: str) -> list[list[str]]:
    """The `dirformer …` lines of code blocks, continuation lines joined, comments cut."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [shlex.split(line, comments=True) for line in lines if line.startswith("dirformer ")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page names a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every documented command has a known verb and known options; recipes it names are shipped."""
    verbs = typer.main.get_command(app).commands
    for _, verb, *arguments in commands(page.read_text()):
        options = {name for parameter in verbs[verb].params for name in parameter.opts}
        given = {a.split("=")[0] for a in arguments if a.startswith("-") and not a.lstrip("-").isdigit()}
        assert given <= options, f"{verb}: {given - options}"
        if "--sweep" in arguments:
            name = arguments[arguments.index("--sweep") + 1]
            assert name in sweep_names() or name.endswith(".yaml")
        elif verb == "train":
            assert arguments[0] in recipe_names() or arguments[0].endswith(".yaml")


def test_every_config_field_that_has_two_readings_is_documented() -> None:
    """The table of paper and release names each field whose values they disagree about."""
    page = (ROOT / "docs" / "reference" / "paper-and-release.md").read_text()
    fields = {f for f in ModelConfig.__dataclass_fields__ if f not in ("task", "scale", "blocks", "heads")}
    named = set(re.findall(r"`(\w+)`", page)) | {m.split(":")[0] for m in re.findall(r"`(\w+: \w+)`", page)}
    ours = {"bias", "unshuffle", "cpen_dim", "prior_dim", "beta_start", "beta_end", "denoiser_blocks", "skip"}
    assert fields - ours <= named


def test_every_shipped_model_has_a_card_and_a_preset() -> None:
    """A model's card lies beside its weights, and its network is the preset of its name."""
    for entry in CATALOG.values():
        assert entry.path.is_file() and entry.path.stat().st_size < 6e6
        card = entry.path.with_suffix(".md").read_text()
        assert all(word in card for word in ("Data", "Licence", "Scores", "Limits"))
        assert entry.plain in PRESETS
