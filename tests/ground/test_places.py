"""Addresses: read whole, written whole, and never printed with their secrets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import fsspec
import pytest

from dirformer.ground.errors import ConfigError, DataError, MissingExtraError, OutputError, PhotoError
from dirformer.ground.places import Entry, Place, address_in, entries, is_url, shown

SIGNED = "https://user:word@host.example/a%20b/photo.png?X-Signature=topsecret#part"


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty folder in this process."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://room"
    store.store.clear()


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server with one file, which wants a signature; and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            good = self.path == "/photo.png?sign=topsecret"
            self.send_response(200 if good else 403)
            self.send_header("Content-Length", "5" if good else "0")
            self.end_headers()
            if good and self.command == "GET":
                self.wfile.write(b"photo")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (SIGNED, "https://host.example/a%20b/photo.png"),
        ("s3://key:secret@bucket/a/b.png", "s3://bucket/a/b.png"),
        ("gs://bucket/a b.png", "gs://bucket/a b.png"),
        ("memory://a/b?c", "memory://a/b"),
        ("a/b?c@d.png", "a/b?c@d.png"),
    ],
)
def test_secrets_are_not_shown(url: str, expected: str) -> None:
    """User, password, query and fragment are left out, everywhere a place becomes text."""
    assert shown(url) == expected
    place = Place(url) if is_url(url) else None
    if place is not None:
        assert str(place) == repr(place) == f"{place}" == expected


def test_names() -> None:
    """The last part names a photo; an address is one with a protocol, and a drive is none."""
    assert Place(SIGNED).name == "photo.png"
    assert Place("s3://bucket/a/b?c.png").name == "b?c.png"  # a key may hold anything
    assert Place("s3://bucket").name == "bucket"
    assert [is_url(n) for n in ("s3://b", "C:/b", "c://b", "a/b", "zip::s3://b")] == [True, *[False] * 4]
    assert Place.of("a.png").local == Path("a.png").absolute()
    assert str(Place.of("/a/b.png")) == "/a/b.png"
    assert Place("memory://a").below("b/c").below("").url == "memory://a/b/c"


def test_folders_are_listed_by_name(memory: str, tmp_path: Path) -> None:
    """Folders and files apart, in order, hidden ones left out; what is not there holds nothing."""
    for top in (Place(memory), Place.of(tmp_path / "top")):
        for name in ("b.png", "a.png", ".hidden", "below/c.png", ".dirformer/d"):
            top.below(name).write(b"12345")
        folders, files = top.listed()
        assert folders == ["below"] and [(one.name, one.size) for one in files] == [
            ("a.png", 5),
            ("b.png", 5),
        ]
        assert top.is_folder() and not top.below("a.png").is_folder()
        assert top.below("none").listed() == ([], []) and top.below("none").info() is None
        entry = top.below("a.png").entry()
        assert entry is not None and entry.name == "a.png" and entry == files[0]
        assert top.entry() is None
        top.below("a.png").write(b"123456")
        other = top.below("a.png").entry()
        assert other is not None and other.version != entry.version


def test_addresses_in_names_of_models() -> None:
    """What stands before and behind an address is kept; names without one are left alone."""
    for name, parts in (
        ("s3://a/b.pth", ("", "s3://a/b.pth", "")),
        ("s3://a/b.pth+", ("", "s3://a/b.pth", "+")),
        ("spandrel:gs://a/b.pth", ("spandrel:", "gs://a/b.pth", "")),
        ("results:LaMa=s3://a/b=c:d", ("results:LaMa=", "s3://a/b=c:d", "")),
        ("Set5=https://h/b.pth?sign=a:b", ("Set5=", "https://h/b.pth?sign=a:b", "")),
        ("results:A=folder", ("results:A=folder", "", "")),
        ("sr-x4-compact+", ("sr-x4-compact+", "", "")),
        ("C:/a/b.pth", ("C:/a/b.pth", "", "")),
    ):
        assert address_in(name) == parts


def test_a_tree_is_fetched_and_removed(memory: str, tmp_path: Path) -> None:
    """A folder with all below it, or one file; versions of files from any folders, in order."""
    top = Place(memory)
    for name in ("a.png", "below/b.png", "below/deep/c.png"):
        top.below(name).write(name.encode())
    told: list[tuple[int, int]] = []
    top.fetch_all(tmp_path / "tree", lambda *each: told.append(each))
    assert told[-1] == (5 + 11 + 16, 5 + 11 + 16) and sorted(told) == told
    assert (tmp_path / "tree/below/deep/c.png").read_bytes() == b"below/deep/c.png"
    top.below("a.png").fetch_all(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == b"a.png"
    assert {name for name, _ in top.tree()} == {"a.png", "below/b.png", "below/deep/c.png"}
    wanted = [top.below(name) for name in ("below/b.png", "a.png", "none.png")]
    found = entries([*wanted, Place.of(tmp_path / "one.png")])
    assert [one.size for one in found] == [11, 5, 0, 5] and found[2].version == ""
    assert found[0] == wanted[0].entry()
    top.below("below").remove()
    top.below("none").remove()
    assert [name for name, _ in top.tree()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """On this machine a file is replaced when the new one is whole."""
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"old\.png cannot be written"):
        Place.of(tmp_path / "old.png").put(tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_other_stores_get_a_temporary_name_first(tmp_path: Path) -> None:
    """Where a file can be seen while it grows, it is moved to its name when it is whole."""
    (tmp_path / "new.png").write_bytes(b"new")
    calls: list[tuple[str, str]] = []
    store = mock.Mock()
    store.put_file.side_effect = lambda _, path: calls.append(("put", path))
    store.mv.side_effect = lambda part, path: calls.append((part, path))
    with mock.patch.object(Place, "opened", return_value=(store, "/top/new.png")):
        Place("sftp://host/top/new.png").put(tmp_path / "new.png")
    (put, part), (moved, path) = calls
    assert put == "put" and part == moved and part.startswith("/top/.new.png.") and path == "/top/new.png"


def test_the_web_is_read_only(web: tuple[str, list[str]], tmp_path: Path) -> None:
    """A signed address is asked for as it is; nothing can be written there."""
    url, asked = web
    place = Place(f"{url}/photo.png?sign=topsecret")
    assert place.read() == b"photo"
    place.fetch(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == b"photo"
    assert set(asked) == {"/photo.png?sign=topsecret"}
    for act in (place.require_writable, lambda: place.put(tmp_path / "photo.png")):
        with pytest.raises(ConfigError, match=r"photo\.png can only be read") as told:
            act()
        assert "topsecret" not in str(told.value)
    with pytest.raises(PhotoError, match=r"photo\.png cannot be read: ") as told:
        Place(f"{url}/photo.png?sign=anothersecret").read()
    assert "secret" not in str(told.value) and told.value.__suppress_context__


def test_what_libraries_say_is_not_repeated(memory: str, tmp_path: Path) -> None:
    """Their errors may quote an address with its signature: only the kind of error is told."""
    store = mock.Mock()
    for method in ("cat_file", "ls", "info", "get_file", "open", "pipe_file"):
        getattr(store, method).side_effect = RuntimeError("GET https://host/?sign=topsecret failed")
    place = Place(f"{memory}/a.png")
    (tmp_path / "a").write_bytes(b"")
    acts = {
        "read": place.read,
        "listed": place.listed,
        "info": place.info,
        "hidden": place.hidden,
        "fetch": lambda: place.fetch(tmp_path / "b"),
        "lines": lambda: list(place.lines()),
        "put": lambda: place.put(tmp_path / "a"),
    }
    with mock.patch.object(Place, "opened", return_value=(store, "/room/a.png")):
        for act in acts.values():
            with pytest.raises((PhotoError, DataError, OutputError), match="RuntimeError") as told:
                act()  # type: ignore[operator]
            assert "secret" not in str(told.value)


def test_unknown_protocols_and_missing_packages_are_said() -> None:
    """One line each: what is known, or which package brings it."""
    with pytest.raises(ConfigError, match="nowhere:// is not known"):
        Place("nowhere://a").read()
    with (
        mock.patch("fsspec.core.url_to_fs", side_effect=ImportError("Install s3fs")),
        pytest.raises(MissingExtraError, match=r"pip install 'dirformer\[s3\]'"),
    ):
        Place("s3://bucket/a").read()
    with (
        mock.patch("fsspec.core.url_to_fs", side_effect=ImportError("Install gcsfs")),
        pytest.raises(ConfigError, match="gs:// needs fsspec's package"),
    ):
        Place("gs://bucket/a").read()


def test_versions_are_the_stores_own() -> None:
    """A digest that the store keeps comes before size and time."""
    from dirformer.ground.places import _entry

    assert _entry("a", {"size": 3, "ETag": '"5d41"', "LastModified": 1}) == Entry("a", 3, "5d41")
    assert _entry("a", {"size": 3, "mtime": 1.5}) == Entry("a", 3, "3 1.5")
