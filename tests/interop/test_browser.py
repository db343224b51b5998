"""The page of `integrations/browser` in a real browser: one file, no server, no request."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dirformer.inference.restorer import Restorer, start_noise
from dirformer.interop.export import export
from helpers import picture

BROWSER = Path(__file__).parents[2] / "integrations" / "browser"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime Web from npm."""
    if shutil.which("npm") is None or not CHROMIUM.is_file():
        pytest.skip("no npm, or no chromium: the page is tested in a real browser only")
    folder = tmp_path_factory.mktemp("npm")
    command = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "onnxruntime-web@1.30.0")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-web: {done.stderr[-200:]}")
    return folder / "node_modules"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sr-x4-compact", "inpainting-compact"])
def test_the_page_restores_as_we_do(name: str, modules: Path, tmp_path: Path) -> None:
    """A photo in, the same 8-bit values out but for one level; the page asks nothing of any host."""
    from playwright.sync_api import sync_playwright

    export(name, tmp_path / "net.onnx", precision="float16", seed=0)
    build = [sys.executable, str(BROWSER / "build.py"), "net.onnx", str(modules), "page.html"]
    subprocess.run(build, cwd=tmp_path, check=True)
    picture(61, 47).save(tmp_path / "photo.png")
    mask = Image.new("L", (61, 47))
    mask.paste(255, (20, 10, 36, 24))
    mask.save(tmp_path / "mask.png")
    requests: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_text("Ready").wait_for(timeout=120_000)
        assert page.is_visible("#mask") == name.startswith("inpainting") and not page.is_visible("#result")
        page.set_input_files("#photo", tmp_path / "photo.png")
        if name.startswith("inpainting"):
            assert page.is_disabled("#restore")  # until there is a mask
            page.set_input_files("#mask", tmp_path / "mask.png")
        page.click("#restore")
        page.get_by_text("Restored in").wait_for(timeout=120_000)
        with page.expect_download() as download:
            page.click("#save")
        (tmp_path / "text.png").write_text("no photo")
        page.set_input_files("#photo", tmp_path / "text.png")
        page.click("#restore")
        page.get_by_text("This photo cannot be restored").wait_for()
        assert not page.is_visible("#save")  # nothing old is taken for the new result
        result = Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB")
        browser.close()
    fill = "smooth" if name.startswith("inpainting") else None
    restorer = Restorer(name, context="image", device="cpu", fill=fill)
    noise = start_noise(restorer.model, 0)[:, 0]
    holes = np.asarray(mask) > 0 if restorer.task == "inpainting" else None
    ours = restorer.restore(tmp_path / "photo.png", holes, noise=noise).permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(result, dtype=float) - (ours * 255).round()).max() <= 1
    assert {url.split(":")[0] for url in requests} <= {"file", "blob", "data"}
