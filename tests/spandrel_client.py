"""A program with spandrel: opens files through its own loader and compares with ours.

python spandrel_client.py FOLDER_OF_PACKAGES FILE...
"""

from __future__ import annotations

import json
import sys

sys.path.insert(0, sys.argv[1])

import torch

# spandrel imports torchvision, whose compiled part does not go with every torch. None of it is used here.
SHIM = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
    SHIM.define(f"{name}(Tensor x) -> Tensor")
    SHIM.define(f"_{name}_backward(Tensor x) -> Tensor")

import spandrel

import dirformer.spandrel
from dirformer.inference.restorer import Restorer


def look(path: str) -> dict[str, object]:
    """What spandrel finds in a file, and how far its result is from ours at a size that needs padding."""
    try:
        model = spandrel.ModelLoader().load_from_file(path)
    except spandrel.UnsupportedModelError:
        return {"unsupported": True}
    restorer = Restorer(path, context="image", device="cpu")
    generator = torch.Generator().manual_seed(0)
    photo, mask = torch.rand(1, 3, 37, 50, generator=generator), None
    if restorer.task == "inpainting":
        mask = (torch.rand(1, 1, 37, 50, generator=generator) > 0.7).float()
    theirs = model(photo) if mask is None else model(photo, mask)
    ours = restorer.restore(photo[0], None if mask is None else mask[0])
    low = model.bfloat16()
    rough = low(photo.bfloat16()) if mask is None else low(photo.bfloat16(), mask.bfloat16())
    return {
        "kind": type(model).__mro__[1].__name__,
        "architecture": model.architecture.id,
        "purpose": model.purpose,
        "scale": model.scale,
        "channels": [model.input_channels, model.output_channels],
        "multiple": model.size_requirements.multiple_of,
        "tags": model.tags,
        "wanted": [restorer.scale, restorer.config.multiple],
        "off": float((theirs[0] - ours).abs().max()),
        "bfloat16": bool(rough.isfinite().all()) and list(rough.shape) == list(theirs.shape),
    }


before = len(spandrel.MAIN_REGISTRY)
dirformer.spandrel.install()
dirformer.spandrel.install()
assert len(spandrel.MAIN_REGISTRY) == before + 1
own = spandrel.ArchRegistry()
dirformer.spandrel.install(own)
assert "DiffIR" in own
print(json.dumps({path: look(path) for path in sys.argv[2:]}))
