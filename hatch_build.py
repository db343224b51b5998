"""Hook of the wheel's build: the C++ kernels are compiled into it, one library for each kind of processor.

Where there is no compiler, or one that cannot build all of them, the wheel is a pure one. An editable install
compiles nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `dirformer/kernels/built` to the wheel and gives it this platform's tag."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into a temporary folder: the source tree stays as it is."""
        if version == "editable" or sys.platform == "win32":
            return
        self._work = tempfile.TemporaryDirectory(prefix="dirformer-wheel-")
        variants = _variants(Path(self.root))
        try:
            libraries = _compile_all(variants, Path(self._work.name))
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"a pure wheel, without compiled kernels: {_reason(error)}")
            return
        for library in libraries:
            build_data["force_include"][str(library)] = f"dirformer/kernels/built/{library.name}"
        build_data["pure_python"] = False
        # The libraries do not use Python: any version of it can load them.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was compiled; the wheel has it."""
        if hasattr(self, "_work"):
            self._work.cleanup()


def _variants(root: Path) -> Any:
    # The package itself cannot be imported here: PyTorch is missing.
    path = root / "src" / "dirformer" / "kernels" / "variants.py"
    spec = importlib.util.spec_from_file_location("dirformer_variants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _compile_all(variants: Any, folder: Path) -> list[Path]:
    names = (os.environ.get("CXX") or "c++", "g++", "clang++")
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler found")
    libraries = []
    for source in variants.SOURCES:
        for variant in variants.variants():
            library = folder / variants.library_name(source, variant)
            order = variants.command(compiler, source, variant, library)
            subprocess.run(order, capture_output=True, text=True, errors="replace", check=True)  # noqa: S603
            libraries.append(library)
    return libraries


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, OSError):
        return str(error)
    return (error.stderr.strip().splitlines() or ["the compiler failed without a message"])[0]
