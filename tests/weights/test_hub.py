"""Networks are shared as folders and on the hub: the same bytes come back, offline too, safetensors only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from dirformer.ground.errors import CheckpointError, MissingExtraError, OutputError
from dirformer.inference.restorer import Restorer
from dirformer.networks.diffir import DiffIRS1
from dirformer.weights.catalog import CATALOG, find_weights
from dirformer.weights.checkpoints import read, save
from dirformer.weights.hub import is_hub_name
from dirformer.weights.load import load
from dirformer.weights.sharing import from_pretrained, push_to_hub, save_pretrained
from helpers import SRC, picture, same_weights, tiny
from weights.stub_hub import StubHub, serve

MINE = ("README.md", "config.json", "model.safetensors")
WATCH = """
import sys
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event.startswith("socket.") else None)
"""
"""Notes every socket that a program makes, binds, connects or looks a name up for."""


@pytest.fixture
def hub() -> Iterator[tuple[StubHub, str]]:
    stub = StubHub()
    with serve(stub) as address:
        yield stub, address


def client(code: str, home: Path, address: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program that knows this hub and has a cache of its own."""
    known = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    mine = {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    left = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=left | known | mine | more,
    )


def front(card: str) -> dict:
    """What the hub reads of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def test_a_folder_gives_the_same_bytes_back(tmp_path: Path) -> None:
    """Saved and loaded again, a network restores a photo to the same bytes; each door takes the folder."""
    network = tiny()
    folder = save_pretrained(network, tmp_path / "mine", licence="cc0-1.0", provenance={"steps": 3})
    assert sorted(path.name for path in folder.iterdir()) == sorted(MINE)
    again = from_pretrained(folder)
    ours, theirs = network.state_dict(), again.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) and again.config == network.config
    save(tmp_path / "file.safetensors", network)
    picture(20, 12).save(tmp_path / "photo.png")
    results = [
        Restorer(model).restore(tmp_path / "photo.png") for model in (folder, tmp_path / "file.safetensors")
    ]
    assert torch.equal(*results)
    for model in (load(folder), load(str(folder))):
        assert torch.equal(model.state_dict()["dirformer.embed.weight"], ours["dirformer.embed.weight"])
    said = json.loads((folder / "config.json").read_text())
    assert said["config"] == network.config.to_dict() and said["stage"] == 2


def test_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """A weight file or shipped model keeps its bytes, header and all."""
    folder = save_pretrained("sr-x4-compact", tmp_path / "shipped")
    assert (folder / "model.safetensors").read_bytes() == CATALOG["sr-x4-compact"].path.read_bytes()
    save(tmp_path / "one.safetensors", tiny(stage=1), {"licence": "MIT"})
    folder = save_pretrained(tmp_path / "one.safetensors", tmp_path / "stage1")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert isinstance(from_pretrained(folder), DiffIRS1)
    assert front((folder / "README.md").read_text())["license"] == "mit"


def test_an_authors_file_becomes_ours(tmp_path: Path, shared: Path) -> None:
    """Pickles are converted, never shared."""
    folder = save_pretrained(shared / "reference" / "small_sr_x4_s2.pth", tmp_path / "theirs")
    same_weights(folder / "model.safetensors", shared / "reference" / "small_sr_x4_s2.pth")
    assert read(folder / "model.safetensors").header.provenance == {"source": "small_sr_x4_s2.pth"}


def test_the_card(tmp_path: Path) -> None:
    """Licence, task, library, scores and paper stand where the hub reads them; no link leads nowhere."""
    card = (save_pretrained("sr-x4-compact", tmp_path / "shipped") / "README.md").read_text()
    said = front(card)
    assert (said["license"], said["library_name"], said["pipeline_tag"]) == (
        "apache-2.0",
        "dirformer",
        "image-to-image",
    )
    assert "sr" in said["tags"] and said["metrics"] == ["psnr"]
    result = said["model-index"][0]["results"][0]
    assert 26 < result["metrics"][0]["value"] < 27 and result["task"]["name"] == "super-resolution"
    assert "arxiv.org/abs/2303.09472" in card and "](../" not in card and "## Limits" in card
    network = tiny()
    plain = (save_pretrained(network, tmp_path / "plain") / "README.md").read_text()
    assert front(plain)["license"] == "unknown" and "No scores were recorded" in plain
    huggingface_hub = pytest.importorskip("huggingface_hub")
    for text in (card, plain):  # the hub's own reader understands it
        data = huggingface_hub.ModelCard(text).data
        assert data.library_name == "dirformer" and data.pipeline_tag == "image-to-image"


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Nothing is replaced without a word, and a network that is none leaves nothing behind."""
    folder = save_pretrained(tiny(), tmp_path / "mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputError, match="exists already; say overwrite=True"):
        save_pretrained(tiny(seed=1), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    save_pretrained(tiny(seed=1), folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != before[folder / "model.safetensors"]
    (tmp_path / "text.safetensors").write_text("no network")
    with pytest.raises(CheckpointError, match="not a dirformer weight file"):
        save_pretrained(tmp_path / "text.safetensors", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("owner/name", True),
        ("owner/name@v1.0", True),
        ("owner/name@refs/pr/3", True),
        ("runs/best.safetensors", False),
        ("runs/net.pth", False),
        ("sr-x4-compact", False),
        ("/abs/name", False),
        ("a/b/c", False),
        ("../name", False),
        ("owner/", False),
        ("owner/na me", False),
    ],
)
def test_names_that_are_asked_for_on_the_hub(name: str, answer: bool) -> None:
    """`owner/name`, with a revision or without; names of files, and paths, are not."""
    assert is_hub_name(name) == answer


def test_what_is_on_disk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder of a hub name's spelling wins; a `Path` is never asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dirformer.weights.hub.fetch", lambda *_, **__: pytest.fail("asked the hub"))
    save_pretrained(tiny(), "owner/name")
    assert find_weights("owner/name") == Path("owner/name/model.safetensors")
    assert from_pretrained("owner/name").stage == 2 and from_pretrained("sr-x4-compact").stage == 2
    with pytest.raises(CheckpointError, match="no model 'owner/other'"):
        find_weights(Path("owner/other"))
    with pytest.raises(CheckpointError, match="is not there; give a weight file"):
        load(Path("owner/other"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface_hub a hub name says that no such file is here, and what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingExtraError, match=r"owner/name is no file here.*pip install 'dirformer\[hub\]'"
    ):
        load("owner/name")
    with pytest.raises(MissingExtraError, match="hub"):
        push_to_hub(tiny(), "owner/name")


@pytest.mark.slow
def test_up_and_down_again(hub: tuple[StubHub, str], tmp_path: Path) -> None:
    """Pushed with a token, loaded by name and revision, then from the cache: without any socket, by each way
    to be offline.
    """
    stub, address = hub
    folder = save_pretrained(tiny(), tmp_path / "mine", licence="cc0-1.0")
    up = f"""
from dirformer import push_to_hub
print(push_to_hub({str(folder)!r}, "owner/name", private=True, token="hf_writes"))
"""
    done = client(up, tmp_path / "up", address)
    assert done.returncode == 0 and "/owner/name/commit/" in done.stdout, done.stderr
    assert sorted(stub.files["owner/name"]) == sorted(MINE) and stub.made[0]["name"] == "name"
    assert stub.made[0].get("private") or stub.made[0].get("visibility") == "private"
    weights = (folder / "model.safetensors").read_bytes()
    assert stub.files["owner/name"]["model.safetensors"] == weights
    assert b"--model owner/name" in stub.files["owner/name"]["README.md"]
    down = """
from pathlib import Path
from dirformer import Restorer, from_pretrained, load
from dirformer.weights.catalog import find_weights
"""
    online = (
        down
        + "load('owner/name'); print(find_weights('owner/name@v1').read_bytes() == Path({!r}).read_bytes())"
    )
    done = client(online.format(str(folder / "model.safetensors")), tmp_path / "home", address)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
    stub.requests.clear()
    last = "\nprint(opened)"
    by_argument = WATCH + down + "from_pretrained('owner/name', offline=True)" + last
    by_variable = WATCH + down + "Restorer('owner/name'); from_pretrained('owner/name')" + last
    for done in (
        client(by_argument, tmp_path / "home", address),
        client(by_variable, tmp_path / "home", address, HF_HUB_OFFLINE="1"),
        client(WATCH + down + f"from_pretrained({str(folder)!r})" + last, tmp_path / "none", address),
    ):
        assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert stub.requests == []


def test_answers_of_the_hub_in_words(hub: tuple[StubHub, str], tmp_path: Path) -> None:
    """Each refusal is one line with what to do; pickles are not loaded, nor damaged files."""
    stub, address = hub
    stub.files["owner/pickles"] = {"pytorch_model.bin": b"x", "net.pth": b"x"}
    stub.files["owner/damaged"] = {"model.safetensors": b"no network"}
    stub.gated.add("owner/gated")
    cases = {
        "owner/none": "no such repository, or it is private",
        "owner/gated": "its owner asks for consent",
        "owner/pickles": "holds no model.safetensors, and other kinds of files are not loaded",
        "owner/damaged@v2": "no such revision",
        "owner/damaged": "is not a dirformer weight file",
    }
    code = f"""
from dirformer import DirformerError, from_pretrained, push_to_hub
for name in {list(cases)!r}:
    try:
        from_pretrained(name)
    except DirformerError as error:
        print(name, "|", error)
try:
    from_pretrained("owner/none", offline=True)
except DirformerError as error:
    print("offline", "|", error)
try:
    push_to_hub({str(save_pretrained(tiny(), tmp_path / "mine"))!r}, "owner/name", token="hf_reads")
except DirformerError as error:
    print("push", "|", type(error).__name__, error)
"""
    done = client(code, tmp_path / "home", address)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    for name, words in cases.items():
        assert words in said[name], said
    assert "not in the cache" in said["offline"]
    assert said["push"].startswith("OutputError owner/name cannot be uploaded")


@pytest.mark.slow
def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    """No connection: after the tries of huggingface_hub, which it tells of, one line and no traceback."""
    code = (
        "from dirformer.cli import main; import sys; sys.argv = ['dirformer', 'export', 'owner/name']; main()"
    )
    done = client(code, tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("dirformer: owner/name cannot be had from the hub")
