"""Where the Triton kernels are tested: on a GPU, or else by Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

import dirformer

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed; make test-gpu-rehearsal installs it", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # is read when a kernel is defined

# Past the hook that has jaxtyping check every function: a kernel is no function, but source text for Triton.
for name in ("tiles", "gradients"):
    dotted = f"dirformer.kernels.{name}"
    if dotted not in sys.modules:
        path = Path(dirformer.__file__).parent / "kernels" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(dotted, path)
        assert spec is not None and spec.loader is not None
        sys.modules[dotted] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[dotted])
