"""The report: one file that holds everything, opened in a real browser."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest
import torch

from dirformer.evaluation.paper import TABLES
from dirformer.evaluation.quotes import printed
from dirformer.evaluation.report import _quoted, error_map, worst_first, write_report
from dirformer.evaluation.results import read_result, write_result
from dirformer.evaluation.run import evaluate
from dirformer.ground.errors import DataError, OutputError


@pytest.fixture
def result(pairs: tuple[Path, Path], tmp_path: Path) -> Path:
    out = tmp_path / "result.json"
    write_result(out, evaluate(["bicubic", "input"], *pairs, "sr", save=tmp_path / "kept"))
    return out


def test_page_holds_tables_photos_settings(result: Path, tmp_path: Path) -> None:
    """The best are marked, each photo has LQ, HQ, GT and error map per model; hashes are there."""
    page_path = tmp_path / "report.html"
    line = write_report([result], page_path)
    page = page_path.read_text()
    assert "4 photos" in line
    assert page.count("class=compare") == 4
    assert page.count("src='data:image/png;base64,") == 4 * 4
    assert "class=rank1" in page and "class=rank2" in page
    assert "SHA-256 of bicubic" in page and "lpips_alex is left out" in page
    assert "Y of BT.601" in page


def test_page_refers_to_nothing_outside(result: Path, tmp_path: Path) -> None:
    """No address but `data:` stands in the page."""
    write_report([result], tmp_path / "r.html")
    page = re.sub(r"data:[^'\"]*", "", (tmp_path / "r.html").read_text())
    assert not re.search(r"https?:|//[a-z]|src='[^']|href='[^']|@import|url\(", page)


def test_worst_photos_come_first(result: Path) -> None:
    """Photos are sorted by the first model's first score, worst first; smaller is worse for PSNR."""
    rows = worst_first(read_result(result))
    assert [r["psnr_y"] for r in rows] == sorted(r["psnr_y"] for r in rows)


def test_quoted_rows_are_marked(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """The paper's rows stand apart and say that they are quoted."""
    write_result(tmp_path / "d.json", evaluate(["input"], pairs[1], pairs[1], "deblurring"))
    write_report([tmp_path / "d.json"], tmp_path / "d.html")
    page = (tmp_path / "d.html").read_text()
    assert "quoted (table3 of the paper)" in page
    assert "<span class=rank1>33.20</span>" in page
    assert "No photos were kept" in page


@pytest.mark.parametrize("protocol", ["inpainting", "sr", "deblurring", "realsr"])
def test_every_cell_of_the_protocol_is_quoted(protocol: str) -> None:
    """All printed cells of the tables of a protocol are in its section, costs and marks too."""
    text = _quoted(protocol)
    for table in (t for t in TABLES.values() if t.name.startswith("table")):
        if table.cases[0].protocol != protocol:
            continue
        for case, rows in printed(table.name).cells.items():
            for method, row in rows.items():
                cells = [
                    f"<span class=rank{q.rank}>{q.text}</span>" if case else f"{k} {q.text}"
                    for k, q in row.items()
                ]
                start = f"<tr><th>{html.escape(method)}</th><td>{case or 'costs and switches'}</td><td>"
                lines = [x for x in text.split("</tr>") if start in x and f"({table.name} " in x]
                assert len(lines) == 1 and all(cell in lines[0] for cell in cells), (case, method)


def test_names_cannot_inject_markup(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """A photo called like a tag is shown as text."""
    for folder in pairs:
        (folder / "meadow.png").rename(folder / "<script>alert(1)<.png")
    write_result(tmp_path / "x.json", evaluate(["bicubic"], *pairs, "sr", save=tmp_path / "kept"))
    write_report([tmp_path / "x.json"], tmp_path / "x.html")
    assert "<script>alert" not in (tmp_path / "x.html").read_text()


def test_error_map_goes_from_black_to_white() -> None:
    """No error is black, a quarter of the range and more is white."""
    gt = torch.zeros(3, 2, 2)
    assert float(error_map(gt, gt).max()) == 0
    assert float(error_map(gt + 0.25, gt).min()) == 1


def test_wrong_use(result: Path, tmp_path: Path) -> None:
    """A page is not overwritten unasked; a file that is no result is named."""
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_report([result], tmp_path / "r.html")
    with pytest.raises(DataError, match=r"r\.html is no result"):
        write_report([tmp_path / "r.html"], tmp_path / "new.html")


def browser(tmp_path: Path):
    """Start headless Chromium, or skip with the reason."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver on this machine (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += "disable-component-update disable-sync disable-dev-shm-usage window-size=1200,900"
    for flag in [*flags.split(), f"user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def test_page_works_in_a_browser(result: Path, tmp_path: Path) -> None:
    """In Chromium the pictures show, the slider moves, and nothing is requested but the page itself."""
    import json

    write_report([result], tmp_path / "report.html")
    page = browser(tmp_path)
    try:
        page.get((tmp_path / "report.html").as_uri())
        sizes = page.execute_script(
            "return [...document.querySelectorAll('.compare img')].map(i => [i.complete, i.naturalWidth])"
        )
        assert len(sizes) == 12 and all(complete and width > 0 for complete, width in sizes)
        shown = "return getComputedStyle(document.querySelector('.compare .lq')).clipPath"
        before = page.execute_script(shown)
        slider = page.find_element("css selector", "input[data-edge=a]")
        slider.send_keys("\ue014" * 20)  # arrow right, as a person at the keyboard
        after = page.execute_script(shown)
        assert before != after
        edge = "return document.querySelector('.compare').style.getPropertyValue('--a')"
        assert page.execute_script(edge) == "53%"
        events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        # The browser's own first tab asks for its own pages.
        outside = {url for url in urls if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))}
        assert outside == {(tmp_path / "report.html").as_uri()}
    finally:
        page.quit()
