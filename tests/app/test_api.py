"""The page as programs use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import dirformer
from dirformer.app.server import is_local
from helpers import picture

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed (extra `app`)")
httpx = pytest.importorskip("httpx", reason="gradio's HTTP client is not installed (extra `app`)")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def client(address: str, tmp_path: Path) -> Any:
    """A program that talks to the page."""
    return gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))


def restored(client: Any, photo: Path, **fields: Any) -> Path:
    """Send a photo; return its result."""
    output, _ = client.predict(gradio_client.handle_file(str(photo)), api_name="/restore", **fields)
    return Path(output)


def test_two_users_at_once_get_their_own(client: Any, tmp_path: Path) -> None:
    """Of photos that are sent at the same time under one name, each sender gets its own result."""
    photos, got = [], dict[int, Path]()
    for number in range(4):
        photos.append(tmp_path / str(number) / "photo.png")
        photos[-1].parent.mkdir()
        picture(40, 30, seed=number).save(photos[-1])

    def send(number: int) -> None:
        got[number] = restored(client, photos[number])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, photo in enumerate(photos):
        alone = dirformer.restore(photo, tmp_path / f"alone{number}.png")
        assert got[number].read_bytes() == alone.read_bytes()


def test_options_reach_the_network(client: Any, tmp_path: Path) -> None:
    """Size, task, format, strength, seed and a mask do what they do on the command line."""
    picture(40, 30).save(tmp_path / "photo.png")
    hole = np.zeros((30, 40), np.uint8)
    hole[10:20, 10:20] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    with Image.open(restored(client, tmp_path / "photo.png", size="x2")) as twice:
        assert twice.size == (80, 60)
    with Image.open(restored(client, tmp_path / "photo.png", size="60x", format="webp")) as wide:
        assert wide.size == (60, 45) and wide.format == "WEBP"
    with Image.open(restored(client, tmp_path / "photo.png", task="denoise", strength=0)) as same:
        assert np.array_equal(np.asarray(same), np.asarray(picture(40, 30)))
    mask = gradio_client.handle_file(str(tmp_path / "hole.png"))
    filled = restored(client, tmp_path / "photo.png", mask=mask, seed=3)
    alone = dirformer.restore(tmp_path / "photo.png", tmp_path / "a.png", mask=tmp_path / "hole.png", seed=3)
    assert filled.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "huge"}, "--size is 'huge'; expected 1920x"),
        ({"strength": 2}, "strength"),
        ({"task": "inpainting"}, "inpainting"),
        ({"size": "99"}, "expected a factor above 0 and at most 16"),
        ({"strength": "a"}, "strength is 'a'; expected 0 .* to 1"),
        ({"seed": "x"}, "seed is 'x'; expected a whole number"),
        ({"seed": 1.5}, r"seed is 1\.5; expected a whole number"),
        ({"seed": True}, "seed is True; expected a whole number"),
        ({"mask": {"path": "/etc/hostname"}}, "not of its field's kind; expected .* uploaded first"),
        ({"mask": 3}, "not of its field's kind"),
    ],
)
def test_errors_reach_programs(client: Any, tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """A program gets the line of the command line, without the server's folders."""
    picture(40, 30).save(tmp_path / "photo.png")
    with pytest.raises(Exception, match=words) as error:
        restored(client, tmp_path / "photo.png", **fields)
    assert "/files/" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:7860", 200),
        ("evil.com", 403),
        ("evil.com:7860", 403),
        ("127.0.0.1.evil.com", 403),
        ("localhost@evil.com", 403),
        ("", 403),
    ],
)
def test_a_local_page_answers_to_its_own_names(address: str, host: str, status: int) -> None:
    """A page elsewhere whose name leads here gets one line, also for the interface of programs."""
    for path in ("/", "/config", "/gradio_api/info"):
        answer = httpx.get(address + path, headers={"Host": host})
        assert answer.status_code == status
        assert status == 200 or len(answer.text.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("photos.example.org", False),
    ],
)
def test_other_addresses_answer_to_all_names(host: str, local: bool) -> None:
    """Whoever lets the network in knows under which names."""
    assert is_local(host) == local


def test_paths_of_the_server_are_refused_in_one_line(address: str) -> None:
    """A program that names a file without uploading it is told so, and gets nothing of it."""
    named = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    values = [named, "choose for me", "faithful", "", 1, 0, "same", None]
    call = f"{address}/gradio_api/call/restore"
    event = httpx.post(call, json={"data": values}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=60).text
    assert "event: error" in answer and "a file is named that was not uploaded; files are uploaded" in answer


def test_result_too_large_is_refused(client: Any, tmp_path: Path) -> None:
    """A photo within the limit whose result would be far beyond it is refused before the work."""
    Image.new("RGB", (1400, 1400)).save(tmp_path / "photo.png")
    with pytest.raises(Exception, match=r"photo\.png would become 31,360,000 pixels; expected at most 12,0"):
        restored(client, tmp_path / "photo.png", size="x4")


def until(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def test_client_that_goes_frees_the_worker(
    client: Any, address: str, temporary: Path, tmp_path: Path
) -> None:
    """Work of a client that cancels is stopped, its folder is removed, and the next client is served."""
    picture(1500, 1400).save(tmp_path / "long.png")
    picture(32, 24).save(tmp_path / "short.png")
    work = next(temporary.glob("dirformer*/requests"))
    job = client.submit(gradio_client.handle_file(str(tmp_path / "long.png")), api_name="/restore")
    assert until(lambda: bool(list(work.iterdir())))
    job.cancel()
    other = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "other"))
    with Image.open(restored(other, tmp_path / "short.png")) as image:
        assert image.size == (128, 96)
    assert until(lambda: not list(work.iterdir()))


@pytest.mark.slow
def test_memory_stays_flat(client: Any, server: tuple[str, int], tmp_path: Path) -> None:
    """200 requests leave the server's memory where the first 40 had it."""
    process = psutil.Process(server[1])
    for number in range(40):
        picture(48, 32, seed=number).save(tmp_path / f"{number}.png")
        restored(client, tmp_path / f"{number}.png")
    before = process.memory_info().rss
    for number in range(160):
        restored(client, tmp_path / f"{number % 40}.png", seed=number)
    assert process.memory_info().rss - before < 40e6
