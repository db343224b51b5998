"""Restore a photo with an exported file and ONNX Runtime: no PyTorch, no dirformer.

pip install onnxruntime numpy pillow
python restore.py MODEL.onnx PHOTO RESULT [MASK]

MODEL.onnx comes from `dirformer export`. A mask is white in holes, as large as the photo.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def planes(picture: Image.Image, mode: str) -> np.ndarray:
    """A picture as 1 channels height width, in [0, 1]."""
    values = np.asarray(ImageOps.exif_transpose(picture).convert(mode), dtype=np.float32) / 255
    return values[None, None] if values.ndim == 2 else values.transpose(2, 0, 1)[None]


def main(model: str, photo: str, result: str, mask: str | None = None) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = {"photo": planes(Image.open(photo), "RGB")}
    for known in session.get_inputs():
        if known.name == "mask":
            if mask is None:
                sys.exit(f"{model} fills holes: give a mask behind the result's name")
            inputs["mask"] = (planes(Image.open(mask), "L") >= 0.5).astype(np.float32)
        elif known.name == "noise":
            # Another seed is another draw. A file that was exported with --seed has no such input.
            draw = np.random.default_rng(0).standard_normal(known.shape)
            inputs["noise"] = draw.astype(np.float32)
    restored = session.run(["restored"], inputs)[0][0]
    pixels = (restored * 255).round().astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(result)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
