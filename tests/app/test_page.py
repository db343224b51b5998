"""The page in a real browser, and as programs use it: one server for all tests of this file."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dirformer
from helpers import picture

pytest.importorskip("gradio", reason="gradio is not installed (extra `app`)")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
PATIENCE = int(os.environ.get("PATIENCE", "120000"))
"""Milliseconds for anything that computes: other work may run beside the test."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A visitor of the page, who asks no other host for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("text=Nothing is sent anywhere else")
    yield page
    context.close()
    assert asked and {url for url in asked if not url.startswith((address, "blob:", "data:"))} == set()


def tab(page: Any, name: str) -> Any:
    """Open a tab; return what it shows."""
    page.get_by_role("tab", name=name).click()
    return page.locator("[role=tabpanel]:visible")


def downloaded(page: Any, panel: Any, label: str, place: Path) -> Path:
    """Save the file that a field of the page offers."""
    with page.expect_download() as waiting:
        panel.locator(f".block:has(> label:has-text('{label}')) a[download]").first.click()
    path = place / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_photo_is_restored_as_by_the_command_line(page: Any, tmp_path: Path) -> None:
    """A photo that is dropped comes back restored: the file is the command line's, in the photo's format; the
    slider moves, and the strength counts."""
    picture(48, 32).save(tmp_path / "small.jpg", quality=90)
    panel = tab(page, "Restore")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "small.jpg")
    page.wait_for_selector("text=small.jpg: 48×32 pixels")
    panel.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_selector("text=realsr-x4-compact,")
    first = downloaded(page, panel, "Result", tmp_path)
    assert first.name == "small_restored.jpg"
    alone = dirformer.restore(tmp_path / "small.jpg", tmp_path / "alone.jpg")
    assert first.read_bytes() == alone.read_bytes()
    handle = panel.locator(".outer").first
    before = handle.bounding_box()["x"]
    grip = handle.bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(grip["x"] + 120, grip["y"] + grip["height"] / 2, steps=4)
    page.mouse.up()
    assert handle.bounding_box()["x"] > before + 50
    strength = panel.get_by_label("number input for Strength")
    strength.fill("0")
    strength.press("Enter")
    panel.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_function(
        "name => ![...document.querySelectorAll('a[download]')].some(a => a.href === name)",
        arg=panel.locator("a[download*=restored]").first.evaluate("a => a.href"),
    )
    (tmp_path / "weak").mkdir()
    weak = downloaded(page, panel, "Result", tmp_path / "weak")
    assert weak.read_bytes() != first.read_bytes()


def paint(page: Any, panel: Any) -> None:
    """Paint a stroke over the middle of the photo."""
    box = panel.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=6)
    page.mouse.up()


@pytest.mark.slow
def test_mask_is_painted_saved_and_loaded(page: Any, tmp_path: Path) -> None:
    """A painted mask can be saved; the command line gives the same bytes for it and the seed; loaded again it
    is the same mask, and erasing it is possible by painting anew."""
    picture(160, 120, seed=1).save(tmp_path / "old.png")
    panel = tab(page, "Fill holes")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "old.png")
    page.wait_for_selector("text=old.png: 160×120 pixels")
    for button in ("Fill", "Save mask"):
        panel.get_by_role("button", name=button, exact=True).click()
        page.wait_for_selector("text=nothing is painted; paint over what is to be filled")
    paint(page, panel)
    panel.get_by_role("button", name="Save mask").click()
    mask = downloaded(page, panel, "Mask, full size", tmp_path)
    assert mask.name == "old_mask.png"
    with Image.open(mask) as opened:
        assert opened.size == (160, 120) and set(np.unique(np.asarray(opened.convert("L")))) == {0, 255}
    panel.get_by_role("button", name="Details").click()
    panel.get_by_label("Seed").fill("7")
    panel.get_by_role("button", name="Fill", exact=True).click()
    page.wait_for_selector("text=inpainting-compact,")
    result = downloaded(page, panel, "Result", tmp_path)
    alone = dirformer.restore(tmp_path / "old.png", tmp_path / "alone.png", mask=mask, seed=7)
    assert result.read_bytes() == alone.read_bytes()
    # Loaded again it is the same mask; paint adds to it.
    page.reload()
    panel = tab(page, "Fill holes")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "old.png")
    page.wait_for_selector("text=old.png: 160×120 pixels")
    panel.locator("input[type=file]").first.set_input_files(mask)
    page.wait_for_function("document.querySelectorAll('a[download]').length >= 2")
    panel.get_by_role("button", name="Save mask").click()
    (tmp_path / "again").mkdir()
    again = downloaded(page, panel, "Mask, full size", tmp_path / "again")
    assert again.read_bytes() == mask.read_bytes()


def test_batch_keeps_going(page: Any, tmp_path: Path) -> None:
    """Three photos come back in a zip under their names; a text called .png is refused beside them."""
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        picture(32, 24, seed=number).save(files[-1])
    (tmp_path / "text.png").write_text("no photo")
    panel = tab(page, "Many photos")
    panel.locator("input[type=file]").first.set_input_files([*files, tmp_path / "text.png"])
    page.wait_for_function("document.querySelectorAll('table.file-preview tr').length >= 4")
    panel.get_by_role("button", name="Restore all").click()
    page.wait_for_selector("text=3 restored, 1 failed")
    words = panel.locator(".status").all_inner_texts()
    assert any(line.startswith("text.png cannot be read as a photo") for line in words), words
    archive = downloaded(page, panel, "Results", tmp_path)
    with zipfile.ZipFile(archive) as bundle:
        assert sorted(bundle.namelist()) == ["0.png", "1.png", "2.png"]
        alone = dirformer.restore(files[1], tmp_path / "alone.png")
        assert bundle.read("1.png") == alone.read_bytes()


def test_refusals_are_the_command_lines(page: Any, temporary: Path, tmp_path: Path) -> None:
    """A text called .png and a photo over the limit are refused in one line, with no folder of the server."""
    (tmp_path / "text.png").write_text("no photo")
    # A header alone: the refusal comes before anything is decoded.
    Image.new("1", (8000, 5000)).save(tmp_path / "huge.png")
    panel = tab(page, "Restore")
    for name, words in (
        ("text.png", "text.png cannot be read as a photo"),
        ("huge.png", "huge.png has 8000×5000 pixels, 40 megapixels; expected at most 3"),
    ):
        panel.locator("input[type=file]").first.set_input_files(tmp_path / name)
        page.wait_for_selector(f"text={words}")
        assert str(temporary) not in page.locator("body").inner_text()
        panel.get_by_role("button", name="Clear").first.click()


@pytest.mark.slow
def test_cancelled_work_frees_the_page(page: Any, temporary: Path, tmp_path: Path) -> None:
    """Cancel stops a long restoration; the next photo does not wait for it, and nothing is left on disk."""
    picture(1500, 1400).save(tmp_path / "long.png")
    picture(32, 24).save(tmp_path / "short.png")
    panel = tab(page, "Restore")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "long.png")
    page.wait_for_selector("text=long.png: 1500×1400 pixels")
    panel.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_selector("text=/[1-9]%|[1-9] %/")
    panel.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("text=cancelled")
    panel.get_by_role("button", name="Clear").first.click()
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "short.png")
    page.wait_for_selector("text=short.png: 32×24 pixels")
    panel.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_selector("text=realsr-x4-compact,")
    assert not list(temporary.glob("dirformer*/requests/*"))


@pytest.mark.slow
def test_closed_page_frees_the_worker(browser: Any, address: str, temporary: Path, tmp_path: Path) -> None:
    """A visitor who closes the page during a long restoration holds nobody up; nothing is left on disk."""
    picture(1500, 1400).save(tmp_path / "long.png")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    panel = tab(page, "Restore")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "long.png")
    page.wait_for_selector("text=long.png: 1500×1400 pixels")
    panel.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_selector("text=/[1-9]%|[1-9] %/")
    context.close()
    end = time.monotonic() + 120
    while list(temporary.glob("dirformer*/requests/*")) and time.monotonic() < end:
        time.sleep(0.2)
    assert not list(temporary.glob("dirformer*/requests/*"))
