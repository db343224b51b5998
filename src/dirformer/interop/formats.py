"""Which files can be written, and the request for one, checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dirformer.ground import checks
from dirformer.ground.errors import OutputError
from dirformer.ground.paths import require_place

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
"""Format → suffix. OpenVINO keeps its weights in a second file, `.bin` beside the `.xml`."""
PRECISIONS = ("float32", "float16")


@dataclass(frozen=True)
class ExportOptions:
    """What to write, and where. A ConfigError or OutputError on construction says what is wrong."""

    out: Path
    """The file: `.onnx` or `.xml`, as the format says."""
    to: str = "onnx"
    """`onnx` or `openvino`."""
    precision: str = "float32"
    """Of the stored weights: `float32`, or `float16` in half the file. Arithmetic is float32 either way."""
    seed: int | None = None
    """Fixes the noise that the diffusion starts from; None makes it an input of the file."""
    overwrite: bool = False
    """Replace files that are there."""

    def __post_init__(self) -> None:
        checks.choice("to", self.to, SUFFIXES)
        checks.choice("precision", self.precision, PRECISIONS)
        overwrite = checks.flag("overwrite", self.overwrite)
        checks.settle(self, out=checks.path("out", self.out), overwrite=overwrite)
        if self.seed is not None:
            checks.settle(self, seed=checks.seed(self.seed))
        if self.out.suffix.lower() != SUFFIXES[self.to]:
            raise OutputError(f"{self.out} does not end in {SUFFIXES[self.to]}, as a file for {self.to} does")
        for path in self.paths:
            require_place(path)
            if path.exists() and not self.overwrite:
                raise OutputError(f"{path} exists already; add --overwrite to replace it")

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that are written."""
        return (self.out,) if self.to == "onnx" else (self.out, self.out.with_suffix(".bin"))


def default_out(model: str, to: str) -> Path:
    """Return the name of a model's file in the current folder. Raises ConfigError for another format."""
    checks.choice("to", to, SUFFIXES)
    name = Path(model).name
    for suffix in (".safetensors", ".pth", ".ckpt", ".pt"):
        name = name.removesuffix(suffix)
    return Path(f"{name}{SUFFIXES[to]}")
