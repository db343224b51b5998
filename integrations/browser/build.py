"""Make one HTML file that restores photos in the browser: network, runtime and page in one, no server.

npm install onnxruntime-web
dirformer export sr-x4-compact --precision float16 --seed 0 -o sr.onnx
python build.py sr.onnx node_modules restore.html

The page asks nothing of any host, and can be opened from a disk.
"""

import base64
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web/dist"


def build(model: Path, modules: Path, out: Path) -> None:
    """Put a model and ONNX Runtime Web into the page."""
    parts = {
        "MODEL": model,
        "RUNTIME": modules / RUNTIME / "ort.wasm.bundle.min.mjs",
        "WASM": modules / RUNTIME / "ort-wasm-simd-threaded.wasm",
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for name, path in parts.items():
        page = page.replace(f"@{name}@", base64.b64encode(path.read_bytes()).decode())
    out.write_text(page.replace("@NAME@", model.stem), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    build(*map(Path, sys.argv[1:]))
