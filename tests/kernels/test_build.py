"""Compiled kernels: chosen by the processor, loaded only from what this user alone can write."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dirformer.kernels import abi, build, cache, choose, variants
from dirformer.kernels.build import CompilerMissingError, compiled
from dirformer.kernels.cache import UntrustedError
from dirformer.kernels.variants import Variant
from helpers import SRC

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="no compiled kernels there")
pytestmark = [needs_compiler, needs_posix]

PLAIN = 'extern "C" long answer() { return 42; }\n'
EVIL = 'extern "C" long answer() { return 666; }\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small C++ file, and an empty cache."""
    for name in ("DIRFORMER_NATIVE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "plain.cpp"
    path.write_text(PLAIN)
    return path


def library_in(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "dirformer").iterdir()
    return path


def evil(like: Path) -> Path:
    """Put a whole library of other contents in the place of `like`, under the name that they get."""
    folder = like.parent
    work = folder.parent.parent
    (work / "evil.cpp").write_text(EVIL)
    subprocess.run(
        ["c++", "-shared", "-fPIC", str(work / "evil.cpp"), "-o", str(work / "evil.so")], check=True
    )
    like.unlink()
    return cache.put(work / "evil.so", folder, like.stem.rpartition("-")[0])


def forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))


# ---------------------------------------------------------------------------------------------- variants


def features_of(tmp_path: Path, *cores: str) -> frozenset[str]:
    path = tmp_path / "cpuinfo"
    path.write_text("".join(f"processor\t: {i}\nflags\t\t: {core}\n\n" for i, core in enumerate(cores)))
    return variants.processor_features(path)


V3 = "fpu avx avx2 fma bmi1 bmi2 f16c movbe abm"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("cores", "name"),
    [
        (("fpu sse2",), "x86-64"),
        ((V3,), "x86-64-v3"),
        ((f"{V3} avx512f",), "x86-64-v3"),
        ((V4,), "x86-64-v4"),
        ((f"{V4} avx512_bf16",), "x86-64-v4-bf16"),
        ((f"{V4} avx512_bf16", V3), "x86-64-v3"),
        ((), "x86-64"),
    ],
)
def test_the_variant_follows_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: tuple[str, ...], name: str
) -> None:
    """The fastest variant all of whose features every core has; the plainest where nothing is known."""
    features = features_of(tmp_path, *cores)
    monkeypatch.setattr(variants, "processor_features", lambda: features)
    monkeypatch.setattr(variants.platform, "machine", lambda: "x86_64")
    assert variants.fitting()[0].name == name
    assert variants.fitting()[-1].name == "x86-64"


def test_an_unreadable_processor_has_no_features(tmp_path: Path) -> None:
    """Other systems have no /proc; nothing is raised."""
    assert variants.processor_features(tmp_path / "none") == frozenset()


def test_no_code_for_this_very_processor() -> None:
    """Wheel and first use compile with the same flags; none of them depends on the machine that compiles."""
    for variant in variants.variants():
        order = variants.command("c++", variants.SOURCES[0], variant, Path("x.so"))
        assert not any("native" in word for word in order[:-4])


def test_an_old_compiler_gets_the_next_variant(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that does not know the newest processors still compiles for older ones."""
    unknown = Variant("newest", ("-march=not-yet-known",), frozenset())
    monkeypatch.setattr(variants, "fitting", lambda: (unknown, variants.variants()[-1]))
    assert compiled(source).answer() == 42
    assert f"-{variants.variants()[-1].name}-" in library_in(tmp_path).name
    monkeypatch.setattr(variants, "fitting", lambda: (unknown,))
    with pytest.raises(CompilerMissingError, match="cannot build the kernels") as error:
        compiled(source)
    assert "\n" not in str(error.value)


def test_a_wheel_loads_its_own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With libraries in the package no compiler is looked for, and no cache is touched."""
    last = variants.variants()[-1]
    built = tmp_path / "built"
    built.mkdir()
    order = variants.command("c++", source, last, built / variants.library_name(source, last))
    subprocess.run(order, check=True)
    monkeypatch.setattr(variants, "BUILT", built)
    monkeypatch.setattr(build, "_compiler", lambda: pytest.fail("looked for a compiler"))
    assert compiled(source).answer() == 42
    assert not (tmp_path / "cache").exists()
    with pytest.raises(CompilerMissingError, match="this wheel has no other kernels for this processor"):
        compiled(source.with_name("other.cpp"))


# ------------------------------------------------------------------------------------------------- cache


def test_the_second_time_nothing_is_compiled(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library lies in XDG_CACHE_HOME, in a folder for its user alone, and is found there."""
    assert compiled(source).answer() == 42
    folder = tmp_path / "cache" / "dirformer"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert library_in(tmp_path).stat().st_mode & 0o777 == 0o700
    forbid_compiling(monkeypatch)
    assert compiled(source).answer() == 42


def test_a_changed_source_is_compiled(source: Path) -> None:
    """The name holds a digest of the source, the flags and the compiler's version."""
    assert compiled(source).answer() == 42
    source.write_text(PLAIN.replace("42", "43"))
    assert compiled(source).answer() == 43


def open_folder(path: Path, _: pytest.MonkeyPatch) -> None:
    path.parent.chmod(0o777)


def open_file(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(0o766)


def open_parent(path: Path, _: pytest.MonkeyPatch) -> None:
    path.parent.parent.chmod(0o777)


def linked_folder(path: Path, _: pytest.MonkeyPatch) -> None:
    folder = path.parent
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def linked_file(path: Path, _: pytest.MonkeyPatch) -> None:
    path.rename(path.parent.parent / "library")
    path.symlink_to(path.parent.parent / "library")


def foreign(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (open_folder, "has mode 777"),
        (open_parent, "lets others replace"),
        (linked_folder, "is not a folder"),
        (foreign, "belongs to user"),
        (open_file, None),
        (linked_file, None),
    ],
)
def test_a_planted_library_is_never_loaded(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str | None,
) -> None:
    """What somebody else could have written is passed over; the kernels are compiled anew.

    Where the whole folder is not to be trusted, this is for the process alone, and the log says why.
    """
    compiled(source)
    planted = evil(library_in(tmp_path))
    assert compiled(source).answer() == 666, "the case itself: a library of this name would be loaded"
    change(planted, monkeypatch)
    before = sorted(planted.parent.iterdir())
    assert compiled(source).answer() == 42
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    if reason is None:
        assert not warnings
    else:
        assert len(warnings) == 1 and "this process only" in warnings[0] and reason in warnings[0]
        assert sorted(planted.parent.iterdir()) == before


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None])
def test_a_damaged_library_is_compiled_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    """Truncated or emptied: the digest in its name tells, and it is replaced by a whole one."""
    with monkeypatch.context() as patch:
        # What this process has loaded must not change under its feet.
        patch.setattr(build, "_load", lambda _: ctypes.CDLL(None))
        compiled(source)
    path = library_in(tmp_path)
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2] if damage is None else damage)
    assert compiled(source).answer() == 42
    assert len(library_in(tmp_path).read_bytes()) == len(contents)


def test_a_library_without_functions_is_refused(source: Path) -> None:
    """One line says so; no AttributeError at the first photo."""
    with pytest.raises(CompilerMissingError, match="lack dirformer_lanes; install dirformer again"):
        abi.declare(compiled(source), {})


def test_contents_reach_the_disk_before_the_name(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash leaves no torn library under a right name."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), sync(handle))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (events.append("name"), replace(self, target))[1]
    )
    compiled(source)
    assert events == ["sync", "name", "sync"]
    assert library_in(tmp_path).suffix == ".so"


def test_many_processes_begin_at_once(source: Path, tmp_path: Path) -> None:
    """Each of them gets the kernels, though all find the cache empty; one library is left."""
    program = (
        "import sys; from pathlib import Path; from dirformer.kernels.build import compiled\n"
        "sys.stdin.readline(); print(compiled(Path(sys.argv[1])).answer())"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(source)],
            env=os.environ | {"PYTHONPATH": str(SRC)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    assert [run.communicate()[0] for run in runs] == ["42\n"] * 4
    assert library_in(tmp_path).name.startswith("plain-")


def refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


def test_a_cache_that_is_read_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies there is used; what does not is compiled for this process alone."""
    compiled(source)
    monkeypatch.setattr(cache, "prepare", refuse)
    with monkeypatch.context() as patch:
        forbid_compiling(patch)
        assert compiled(source).answer() == 42
    source.write_text(PLAIN.replace("42", "43"))
    assert compiled(source).answer() == 43
    assert "this process only" in caplog.text and "Read-only file system" in caplog.text
    assert library_in(tmp_path)
    monkeypatch.setattr(cache, "working_folder", refuse)
    with pytest.raises(CompilerMissingError, match="cannot be written anywhere"):
        compiled(source)


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME, if absolute; else .cache at home; without HOME, the home that the system knows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "dirformer"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.cache_folder() == tmp_path / "home" / ".cache" / "dirformer"
    monkeypatch.delenv("HOME")
    assert cache.cache_folder().is_absolute()


def test_a_user_without_a_home(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernels are compiled for the process alone."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UntrustedError):
        cache.cache_folder()
    assert compiled(source).answer() == 42
    assert "no home folder" in caplog.text


# -------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize(("features", "expected"), [(V4, "float32"), (f"{V4} avx512_bf16", "bfloat16")])
def test_bfloat16_without_its_products(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, features: str, expected: str
) -> None:
    """A processor without them computes in float32, compiled or not, and one line says so."""
    monkeypatch.setattr(variants, "processor_features", lambda: frozenset(features.split()))
    monkeypatch.setenv("DIRFORMER_NATIVE", "0")
    monkeypatch.setattr("dirformer.kernels.native.library", build_nothing)
    kernels = choose.choose_kernels(torch.bfloat16)
    assert kernels.precision == getattr(torch, expected)  # type: ignore[attr-defined]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (expected == "float32")
    assert all("no bfloat16 products; computing in float32" in line for line in warnings)


def build_nothing() -> ctypes.CDLL:
    raise CompilerMissingError("not in this test")


def test_windows_gets_stock_torch(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler is asked for there, and nothing of POSIX is called."""
    monkeypatch.setattr(build.sys, "platform", "win32")
    monkeypatch.setattr(build, "_compiler", lambda: pytest.fail("looked for a compiler"))
    with pytest.raises(CompilerMissingError, match="no compiled kernels for Windows"):
        compiled(source)


def test_a_system_without_posix(tmp_path: Path) -> None:
    """All is imported and a photo restored where `os` and `mmap` lack what only POSIX has."""
    program = """
import importlib, mmap, os, pkgutil, sys, torch
for name in ("geteuid", "getuid", "sysconf", "pread", "posix_fallocate", "fork", "sched_getaffinity"):
    if hasattr(os, name): delattr(os, name)
for name in [n for n in dir(mmap) if n.startswith(("MADV_", "MAP_", "PROT_"))]: delattr(mmap, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"): sys.modules[name] = None
sys.platform = "win32"
import dirformer
from dirformer.ground import memory
from pathlib import Path
memory._PROC = Path("none")
for module in pkgutil.walk_packages(dirformer.__path__, "dirformer."):
    if not module.name.endswith("__main__"):
        try: importlib.import_module(module.name)
        except ModuleNotFoundError as error: assert not str(error.name).startswith("dirformer"), error
from dirformer.experiments import estimate
from dirformer.inference.engine import Engine
from helpers import tiny
engine = Engine(tiny())
print(engine.kernels.name, tuple(engine.restore(torch.rand(1, 3, 16, 16), torch.randn(1, 1, 8)).shape))
assert memory.total_memory() is None and memory.peak_memory() is None
try: estimate._free_mib(torch.device("cpu"))
except dirformer.ConfigError as error: assert "choose data.batch by hand" in str(error)
else: raise AssertionError
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{SRC}:{SRC.parent / 'tests'}", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "stock torch (1, 3, 64, 64)"
