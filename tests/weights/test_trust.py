"""Weight files of strangers: whatever is in them, the answer is a network or one line."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dirformer.ground.errors import CheckpointError
from dirformer.weights import checkpoints, unpickle
from dirformer.weights.authors import from_authors, to_authors
from dirformer.weights.checkpoints import HEADER, read
from dirformer.weights.load import load
from dirformer.weights.unpickle import read_foreign
from helpers import TINY_SR, tiny
from weights.test_authors import CONFIGS

TINY_AUTHORS = CONFIGS["deblurring"]
FAST = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
GOOD = {
    "format": 2,
    "stage": 2,
    "config": TINY_SR.to_dict(),
    "inference": {"context": "image", "patch": 64},
    "provenance": {},
}


def config(**changes: Any) -> str:
    """A header whose config is changed."""
    return json.dumps(GOOD | {"config": TINY_SR.to_dict() | changes})


def with_header(path: Path, text: str) -> Path:
    save_file({"a": torch.zeros(1)}, path, metadata={HEADER: text})
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600 and path.name in message
    return message


@FAST
@given(field=st.sampled_from(sorted(GOOD)), value=JSON)
def test_a_field_of_any_type_is_one_line(field: str, value: Any, tmp_path: Path) -> None:
    """Any JSON in the place of any field of the header is refused, never a traceback."""
    refused(with_header(tmp_path / "a.safetensors", json.dumps(GOOD | {field: value})))


@FAST
@given(field=st.sampled_from(sorted(TINY_SR.to_dict())), value=JSON)
def test_a_config_of_any_values_is_one_line(field: str, value: Any, tmp_path: Path) -> None:
    """So is any value in the place of a field of the config."""
    header = GOOD | {"config": TINY_SR.to_dict() | {field: value}}
    refused(with_header(tmp_path / "a.safetensors", json.dumps(header)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"format": NaN}', "NaN is no JSON number"),
        ("9" * 5000, "not JSON"),
        ("[1, 2]", "no dirformer header"),
        (json.dumps(GOOD | {"more": "x" * 2**20}), "header of .* characters; expected 1048576 at most"),
        (json.dumps(GOOD | {"format": True}), "has format True; this version reads 1 and 2"),
        (json.dumps(GOOD | {"stage": [2]}), r"cannot be built: stage \[2\]"),
        (json.dumps(GOOD | {"config": [1]}), r"config \[1\]; expected"),
        (json.dumps(GOOD | {"provenance": [1]}), r"provenance is \[1\]; expected a dictionary"),
        (json.dumps(GOOD | {"inference": {"patch": 10**30}}), "asks for patch .*; expected a number of 1"),
        (
            json.dumps(GOOD | {"config": TINY_SR.to_dict() | {"dim": 10**6}}),
            "dim is 1000000; expected at most",
        ),
        (json.dumps(GOOD | {"config": TINY_SR.to_dict() | {"timesteps": 10**9}}), "timesteps is 1000000000"),
        (json.dumps(GOOD | {"config": TINY_SR.to_dict() | {"blocks": [1000] * 4}}), "config has 400. blocks"),
        (json.dumps(GOOD | {"config": TINY_SR.to_dict() | {"dim": 4096}}), "lacks tensor"),
    ],
)
def test_hostile_headers_are_named(text: str, message: str, tmp_path: Path) -> None:
    """Depth, size, NaN, wrong kinds and huge networks are each said in a line, without their memory."""
    path = with_header(tmp_path / "a.safetensors", text)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


@FAST
@given(data=st.binary(max_size=200), length=st.integers(0, 300))
def test_any_safetensors_bytes_are_one_line(data: bytes, length: int, tmp_path: Path) -> None:
    """Bytes that are no safetensors file are refused."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + data)
    refused(path)


# Pickles ----------------------------------------------------------------------------------------------


def archive(path: Path, data: bytes, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("archive/data.pkl", data)
    return path


@FAST
@given(data=st.binary(max_size=60), cut=st.integers(0, 400))
def test_any_opcodes_are_one_line_or_data(data: bytes, cut: int, tmp_path: Path) -> None:
    """Random opcodes, alone or in the place of a checkpoint's end, are read or refused."""
    good = pickle.dumps({"params": {"a": [1, 2.5, "b", (None, True)]}}, protocol=2)
    for bytes_ in (data + b".", good[:cut] + data + b"."):
        for path in (archive(tmp_path / "a.pth", bytes_), tmp_path / "b.pth"):
            if path.name == "b.pth":
                path.write_bytes(bytes_)
            with contextlib.suppress(CheckpointError):
                read_foreign(path)


@FAST
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    protocol=st.integers(2, 5),
)
def test_plain_data_comes_back(value: Any, protocol: int, tmp_path: Path) -> None:
    """Containers, numbers and strings are read as Python's own unpickler reads them."""
    assert read_foreign(archive(tmp_path / "a.pth", pickle.dumps(value, protocol=protocol))) == value


def test_tensors_come_back_from_both_formats(tmp_path: Path) -> None:
    """Archives and files from before PyTorch 1.6 hold the same; shared storages stay shared."""
    base = torch.arange(12.0).view(3, 4)
    content = {
        "params": {
            "whole": base,
            "part": base[1:, ::2],
            "half": torch.ones(3).half(),
            "none": torch.empty(0),
        },
        "parameter": torch.nn.Parameter(base.clone()),
        "state": torch.nn.BatchNorm1d(2).state_dict(),
    }
    for modern in (True, False):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=modern)
        got = read_foreign(tmp_path / "a.pth")
        for key, value in content["params"].items():
            assert torch.equal(got["params"][key], value) and got["params"][key].dtype == value.dtype
        whole, part = got["params"]["whole"], got["params"]["part"]
        assert whole.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
        assert torch.equal(got["parameter"], base)
        assert all(torch.equal(got["state"][k], v) for k, v in content["state"].items())


def nested(depth: int, kind: bytes = b"\x85") -> bytes:
    """A tuple (or list) that deep, as the key of a dictionary."""
    inner = b"]" + b"]" * depth + b"a" * depth if kind == b"a" else b"K\x01" + kind * depth
    return b"\x80\x02}" + inner + b"K\x02s."


def doubling(depth: int) -> bytes:
    """A key whose hash takes 2^depth steps."""
    steps = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))
    return b"\x80\x02}K\x01" + steps + b"K\x02s."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (nested(50), "a key is a tuple; expected text or a number"),
        (nested(2_000_000), "nests over 100 containers"),
        (nested(200, b"a"), "nests over 100 containers"),
        (doubling(60), "a key is a tuple"),
        (b"\x80\x02" + b"N0" * 2_000_000 + b"N.", "over 2000000 opcodes"),
        (b"\x80\x02" + b"N" * 2**26 + b".", "over 64 MiB"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02e.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\n]((K\x01tK\x02tae\x85R.", "damaged|a key is a tuple"),
    ],
    ids=["key", "deep", "lists", "doubling", "opcodes", "bytes", "memo", "mark", "end", "dictionary"],
)
def test_hostile_pickles_are_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    """Depth, hashing, opcodes and size are bounded, in archives and in old files."""
    with pytest.raises(CheckpointError, match=message) as error:
        read_foreign(archive(tmp_path / "a.pth", data))
    assert "\n" not in str(error.value)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    """A zip bomb is refused before it is unpacked."""
    path = archive(tmp_path / "a.pth", b"N" * 2**24 + b".", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    with pytest.raises(CheckpointError, match="over 16 times its size"):
        read_foreign(path)


def test_a_network_larger_than_its_file_is_refused() -> None:
    """Overlapping tensors may not add up to far more than the storages that hold them."""
    state = to_authors(tiny(TINY_AUTHORS))
    one = torch.zeros(max(value.numel() for value in state.values()))
    small = {k: v if "betas" in k else one[: v.numel()].view(v.shape) for k, v in state.items()}
    with pytest.raises(CheckpointError, match=r"its tensors have .* values on storages of"):
        from_authors({"params": small}, "a.pth")


@pytest.mark.parametrize("name", ["deephash", "grow10"])
def test_known_attacks_are_refused(shared: Path, name: str) -> None:
    """The files that once crashed the reader, or made it take gigabytes, are each one line."""
    path = shared / "faults" / f"{name}.pth"
    if not path.is_file():
        pytest.skip("the collection of faults is not there")
    refused(path)


def test_a_repacked_attack_is_refused(shared: Path, tmp_path: Path) -> None:
    """Stored uncompressed, the nested key and the growing network are refused for what they are."""
    for name in ("deephash", "grow10"):
        source = shared / "faults" / f"{name}.pth"
        if not source.is_file():
            pytest.skip("the collection of faults is not there")
        target = tmp_path / f"{name}.pth"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, old.read(entry))
        refused(target)


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and tensors come from one opening, in both kinds of file."""
    from dirformer.inference.restorer import Restorer
    from dirformer.weights.authors import convert

    opened: list[str] = []
    safe_open, zip_file = checkpoints.safe_open, unpickle.zipfile.ZipFile
    checkpoints.save(tmp_path / "a.safetensors", tiny(TINY_AUTHORS))
    convert(tmp_path / "a.safetensors", tmp_path / "b.pth")
    monkeypatch.setattr(
        checkpoints, "safe_open", lambda path, **k: opened.append(str(path)) or safe_open(path, **k)
    )
    monkeypatch.setattr(
        unpickle.zipfile, "ZipFile", lambda file, *a: opened.append(file.name) or zip_file(file, *a)
    )
    for name in ("a.safetensors", "b.pth"):
        opened.clear()
        Restorer(tmp_path / name, device="cpu")
        assert opened == [str(tmp_path / name)]


def test_names_texts_and_paths_are_loaded(tmp_path: Path) -> None:
    """`load` takes a shipped name, a text and a Path."""
    checkpoints.save(tmp_path / "a.safetensors", tiny())
    for given_ in (tmp_path / "a.safetensors", str(tmp_path / "a.safetensors")):
        assert load(given_).config == TINY_SR
    assert load("sr-x4-compact").config.task == "sr"
    with pytest.raises(CheckpointError, match="no model 'sr-x9'"):
        load("sr-x9")
