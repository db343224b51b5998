"""`restore --prove`: streamed against whole and memory against its limit, on the user's own photo."""

from __future__ import annotations

from pathlib import Path

import pytest

from dirformer.ground.errors import ConfigError
from dirformer.inference import proof
from dirformer.inference.files import FileRun, restore_file
from dirformer.inference.jobs import Job
from dirformer.inference.restorer import Restorer
from dirformer.weights.checkpoints import save
from helpers import dirformer, picture, tiny


@pytest.fixture
def job(tmp_path: Path) -> Job:
    save(tmp_path / "sr.safetensors", tiny())
    picture(20, 12).save(tmp_path / "photo.png")
    return Job(tmp_path / "photo.png", tmp_path / "out.png")


def test_proof_on_a_photo(job: Job) -> None:
    """The proof finds no difference beyond rounding, and names the limit it was held to."""
    restorer = Restorer(job.photo.with_name("sr.safetensors"), device="cpu", max_memory="1GiB")
    result, _ = restore_file(restorer, job, FileRun(prove=True))
    assert result is not None
    assert result.difference is not None and result.difference <= 1e-5
    assert (result.limit, result.photo) == (2**30, job.photo)
    assert "limit 1024 MiB" in str(result)


def test_a_photo_too_large_to_check_is_said_to_be(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole would not fit into memory, the proof says so instead of trying."""
    monkeypatch.setattr(proof, "available_memory", lambda: 1)
    restorer = Restorer(job.photo.with_name("sr.safetensors"), device="cpu")
    result, _ = restore_file(restorer, job, FileRun(prove=True))
    assert result is not None
    assert result.difference is None
    assert "too large to be restored as a whole" in str(result)


def test_prove_on_the_command_line(job: Job) -> None:
    """`--prove` prints the difference and the memory; a limit nothing fits in is one line and code 2."""
    model = job.photo.with_name("sr.safetensors")
    common = ("restore", job.photo, "--model", model, "-o", job.output)
    result = dirformer(*common, "--prove", "--max-memory", "1GiB")
    assert result.returncode == 0, result.stderr
    assert "largest difference" in result.stdout and "limit 1024 MiB" in result.stdout
    refused = dirformer(*common, "--overwrite", "--max-memory", "1MiB")
    assert refused.returncode == 2
    assert "the smallest that works is" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_windows_on_the_command_line(job: Job) -> None:
    """`--context window` says how large its windows are; only its memory can be proven."""
    model = job.photo.with_name("sr.safetensors")
    common = ("restore", job.photo, "--model", model, "-o", job.output, "--context", "window")
    result = dirformer(*common, "--window", "32", "--prove")
    assert result.returncode == 0, result.stderr
    assert "in windows of 32 pixels" in result.stdout
    assert "not the whole photo's result; peak memory" in result.stdout


def test_storage_is_checked(job: Job) -> None:
    """An unknown storage is refused with those there are."""
    with pytest.raises(ConfigError, match="32bit, 16bit"):
        Restorer(job.photo.with_name("sr.safetensors"), device="cpu", storage="8bit")
