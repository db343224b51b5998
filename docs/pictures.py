"""The pictures of README and cards, from photos that may be shown: make pictures."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent


def main() -> None:
    runpy.run_path(str(DOCS / "demo" / "demo.py"), run_name="__main__")
    with Image.open("out/demo/side_by_side.png") as strip:
        strip.save(DOCS / "demo" / "side_by_side.jpg", quality=90)


if __name__ == "__main__":
    main()
