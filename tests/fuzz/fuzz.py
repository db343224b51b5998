"""Coverage-guided fuzzing of what strangers hand over: python tests/fuzz/fuzz.py TARGET [FOLDER] [OPTIONS]

TARGET is photo, pickle or header. FOLDER keeps inputs that reach something new. OPTIONS are
libFuzzer's. Needs `atheris` (pip install atheris). A finding is an exception that is not one of the package's
own, an error of several lines, too much memory, or too much time.

    python tests/fuzz/fuzz.py photo -max_total_time=1800 -rss_limit_mb=2048 -timeout=10
"""

from __future__ import annotations

import io
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dirformer.ground", "dirformer.weights", "PIL", "tifffile"]):
    import torch
    from PIL import Image

    from dirformer.ground.decode import decode
    from dirformer.ground.errors import DirformerError
    from dirformer.ground.formats import EXPECTED
    from dirformer.weights.checkpoints import read, read_header, save
    from dirformer.weights.unpickle import read_foreign

DATA = Path(__file__).parents[1] / "ground" / "data"
PLACE = Path(tempfile.mkdtemp(prefix="fuzz-"))
_LIMIT = 4_000_000
"""Pixels: larger photos are refused from their header, and are no finding."""


def photo(data: bytes) -> None:
    """Decode a photo."""
    decode(io.BytesIO(data), "fuzz", max_pixels=_LIMIT)


def pickle(data: bytes) -> None:
    """Read a foreign checkpoint."""
    path = PLACE / "fuzz.pth"
    path.write_bytes(data)
    read_foreign(path)


def header(data: bytes) -> None:
    """Read a weight file, header and tensors."""
    path = PLACE / "fuzz.safetensors"
    path.write_bytes(data)
    read_header(path)
    read(path)


TARGETS: dict[str, Callable[[bytes], None]] = {"photo": photo, "pickle": pickle, "header": header}


def seeds(target: str) -> Iterator[bytes]:
    """Yield whole files to start from."""
    if target == "photo":
        image = Image.effect_mandelbrot((24, 16), (-2, -1, 1, 1), 50)
        for mode in ("L", "RGB", "RGBA", "P", "1", "CMYK", "I;16"):
            for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000"):
                out = io.BytesIO()
                try:
                    image.convert(mode).save(out, kind)
                except (OSError, ValueError):
                    continue
                yield out.getvalue()
        yield from (path.read_bytes() for path in sorted(DATA.rglob("*")) if path.is_file())
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from helpers import tiny

    if target == "header":
        for dtype in (torch.float16, torch.int8):
            save(PLACE / "seed", tiny(), {"recipe": "r"}, dtype=dtype)
            yield (PLACE / "seed").read_bytes()
        return
    for legacy in (False, True):
        out = io.BytesIO()
        content = {"params": {"w": torch.arange(6.0).reshape(2, 3)}, "list": [1, "two", None, (3.0,)]}
        torch.save(content, out, _use_new_zipfile_serialization=not legacy)
        yield out.getvalue()


def main() -> None:
    """Fuzz until libFuzzer ends."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        raise SystemExit(f"target {name!r}; expected one of {', '.join(TARGETS)} ({EXPECTED})")
    logging.disable()
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    corpus = PLACE / "seeds"
    corpus.mkdir()
    for number, data in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(data)

    def once(data: bytes) -> None:
        try:
            target(data)
        except DirformerError as error:
            line = str(error)
            # One short line, whatever was in the file.
            if "\n" in line or len(line) >= 1000:
                raise ValueError(line) from error

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], once)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)


if __name__ == "__main__":
    main()
