"""The wheel needs no compiler and gives the same bytes as a source tree; each variant computes the same."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dirformer.inference.engine import Engine
from dirformer.kernels import build, native, variants
from helpers import SRC, picture, tiny

ROOT = SRC.parent
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux"),
]

PROGRAM = """
import hashlib, logging, sys
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
import numpy, torch
torch.set_num_threads(1)
import dirformer
from dirformer.kernels import autograd
from dirformer.networks.dirformer import Block
print(dirformer.__file__)
dirformer.restore(sys.argv[1], sys.argv[2], model="sr-x4-compact")
torch.manual_seed(0)
block = Block(dirformer.preset("sr-x4-compact"), 32, 1)
x = torch.randn(2, 32, 24, 24, requires_grad=True)
assert autograd.usable(block, x) == (sys.argv[3] == "native")
autograd.install(block)
block(x, torch.randn(2, dirformer.preset("sr-x4-compact").prior_dim)).square().sum().backward()
print(hashlib.sha256(x.grad.numpy().tobytes()).hexdigest())
"""


def make_wheel(folder: Path, **environment: str) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Return the Python of a new environment with this wheel, which sees what is installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--disable-pip-version-check", str(wheel)], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "here.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


def restore(
    python: Path, folder: Path, name: str, kernels: str, **environment: str
) -> tuple[str, bytes, list[str]]:
    """Restore a photo in a process of its own; return the log, the photo, and what was printed."""
    picture(40, 28).save(folder / "photo.png")
    result = subprocess.run(
        [str(python), "-c", PROGRAM, str(folder / "photo.png"), str(folder / f"{name}.png"), kernels],
        env={"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr, (folder / f"{name}.png").read_bytes(), result.stdout.split()


@needs_compiler
def test_a_wheel_needs_no_compiler(tmp_path: Path) -> None:
    """Without a compiler and a cache it restores by its own kernels: the same bytes as a source tree."""
    wheel = make_wheel(tmp_path / "dist")
    assert wheel.name.split("-")[2:4] == ["py3", "none"] and "linux" in wheel.name
    python = install(wheel, tmp_path / "env")
    hidden = {"PATH": str(tmp_path / "env" / "bin"), "CXX": "/nonexistent"}
    log, photo, (home, gradient) = restore(python, tmp_path, "wheel", "native", **hidden)
    assert str(tmp_path) in home
    assert "kernels: native" in log and f"inference-{variants.fitting()[0].name}.so" in log
    assert not (tmp_path / "cache").exists()
    source = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC)}
    log, expected, (home, other) = restore(Path(sys.executable), tmp_path, "source", "native", **source)
    assert str(SRC) in home and "kernels: native" in log and (tmp_path / "cache").exists()
    assert photo == expected and gradient == other


def test_a_wheel_built_without_a_compiler_is_pure(tmp_path: Path) -> None:
    """It is for any platform, and falls back to stock torch with a line that says so."""
    wheel = make_wheel(tmp_path / "dist", PATH=str(tmp_path), CXX="/nonexistent")
    assert wheel.name.endswith("py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not any(name.endswith(".so") for name in archive.namelist())
    python = install(wheel, tmp_path / "env")
    log, _, _ = restore(python, tmp_path, "pure", "stock", PATH=str(tmp_path))
    assert "kernels: stock torch (no C++ compiler found)" in log


@needs_compiler
@pytest.mark.parametrize("variant", variants.fitting(), ids=lambda variant: variant.name)
def test_each_variant_computes_the_same(variant: variants.Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this processor can run differs from stock torch in the last bits only."""
    monkeypatch.setattr(variants, "fitting", lambda: (variant,))
    monkeypatch.setattr(native, "library", functools.cache(native.library.__wrapped__))
    model = tiny()
    lq, noise = torch.rand(1, 3, 32, 48), torch.randn(1, 1, 8)
    engine = Engine(model, kernels=native.NativeKernels())
    monkeypatch.setenv(build.SWITCH, "0")
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    stock = Engine(model)
    assert stock.kernels.name == "stock torch"
    assert torch.allclose(engine.restore(lq, noise), stock.restore(lq, noise), atol=1e-5)
