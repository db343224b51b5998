"""Build and check what a release consists of: python -m release.dist [FOLDER]

Source distribution and wheel are built and their contents checked. The wheel is installed into a fresh folder
and restores a photo without a compiler. SHA256SUMS is written. Nothing is published.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEEL_HOLDS = (
    "dirformer/weights/files/sr-x4-compact.safetensors",
    "dirformer/recipes/sr-x4-compact-stage1.yaml",
    "dirformer/app/examples/restore_small.jpg",
    "dirformer/py.typed",
)
SOURCE_HOLDS = ("LICENSE", "README.md", "hatch_build.py", "src/dirformer/kernels/inference.cpp")
_RESTORE = "import sys, dirformer; dirformer.restore(sys.argv[1], sys.argv[2])"


def main(folder: Path) -> None:
    """Build into a folder and check. Raises SystemExit with what is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    wheel, source = (max(folder.glob(kind), key=os.path.getmtime) for kind in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        _require(wheel, set(archive.namelist()), WHEEL_HOLDS)
    with tarfile.open(source) as archive_of_source:
        names = {name.partition("/")[2] for name in archive_of_source.getnames()}
    _require(source, names, SOURCE_HOLDS)
    _try(wheel)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in (wheel, source)]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
    print("\n".join(sums))


def _require(path: Path, names: set[str], wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise SystemExit(f"{path.name} lacks {', '.join(missing)}")


def _try(wheel: Path) -> None:
    """Restore a photo by the wheel's own code, where there is no compiler to be found."""
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, str(wheel)]
        subprocess.run(pip, check=True)
        environment = {"PYTHONPATH": place, "PATH": "", "HOME": place}
        photo = Path(place) / "dirformer/app/examples/restore_small.jpg"
        command = [sys.executable, "-c", _RESTORE, str(photo), f"{place}/out.png"]
        subprocess.run(command, check=True, env=environment, cwd=place)
        if not Path(place, "out.png").is_file():
            raise SystemExit(f"{wheel.name} restores nothing")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
