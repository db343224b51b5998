"""A folder kept at an address: whole files, in order, and nothing that is no longer in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dirformer.ground.errors import OutputError, PhotoError
from dirformer.ground.mirror import Mirror, fetched, room_of
from dirformer.ground.places import Place


def names(place: Place, below: str = "") -> list[str]:
    folders, files = place.below(below).listed()
    found = [f"{below}{one.name}" for one in files]
    return sorted([*found, *(name for folder in folders for name in names(place, f"{below}{folder}/"))])


def test_what_is_new_is_put_and_what_is_gone_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed files alone are put, the one that speaks of the others last; foreign files stay."""
    place = Place("memory://mirror-a/run")
    place.below("foreign.txt").write(b"theirs")
    folder, done = tmp_path / "run", list[str]()
    put = Place.put
    monkeypatch.setattr(Place, "put", lambda self, local: (done.append(self.name), put(self, local))[1])
    mirror = Mirror(folder, place)
    (folder / "below").mkdir(parents=True)
    for name in ("state.pt", "weights", "below/1.jpg", ".half.part"):
        (folder / name).write_text(name)
    mirror.put(last="state.pt")
    assert done == ["1.jpg", "weights", "state.pt"]
    assert names(place) == ["below/1.jpg", "foreign.txt", "state.pt", "weights"]
    done.clear()
    mirror.put()
    (folder / "weights").write_text("other weights")
    (folder / "below/1.jpg").unlink()
    mirror.put()
    assert done == ["weights"] and names(place) == ["foreign.txt", "state.pt", "weights"]
    assert place.below("weights").read() == b"other weights"


def test_what_is_there_is_fetched(tmp_path: Path) -> None:
    """Of the names that are asked for, in place of what was in the folder; and it is not put again."""
    place = Place("memory://mirror-b/run")
    for name in ("state.pt", "other.pt", "journal"):
        place.below(name).write(name.encode())
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old.pt").write_text("old")
    mirror = Mirror(folder, place)
    mirror.fetch("*.pt")
    assert sorted(p.name for p in folder.iterdir()) == ["other.pt", "state.pt"]
    (folder / "other.pt").unlink()
    mirror.put()
    assert names(place) == ["journal", "state.pt"]
    assert mirror.public(f"saved in {folder}/state.pt") == "saved in memory://mirror-b/run/state.pt"
    Mirror(tmp_path / "none", Place("memory://mirror-b/none")).fetch("*")
    assert not (tmp_path / "none").exists()


def test_without_an_address_nothing_is_done(tmp_path: Path) -> None:
    """A run in a folder is that folder."""
    (tmp_path / "kept").write_text("kept")
    mirror = Mirror(tmp_path, None)
    mirror.fetch("*")
    mirror.put()
    assert (tmp_path / "kept").read_text() == "kept" and mirror.public("a line") == "a line"


def test_a_store_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store's own words; what was put before is there."""
    mirror = Mirror(tmp_path / "run", Place("memory://mirror-c/run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_text("state")
    import fsspec

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("key=secret")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", refuse)
    with pytest.raises(
        OutputError, match=r"memory://mirror-c/run/state.pt cannot be written: access"
    ) as error:
        mirror.put()
    assert "secret" not in str(error.value)


def test_one_copy_for_a_process(tmp_path: Path) -> None:
    """A file at an address is copied once; addresses that end alike have rooms of their own."""
    for folder in "ab":
        Place(f"memory://mirror-d/{folder}/weights").write(folder.encode())
    files = [fetched(f"memory://mirror-d/{folder}/weights") for folder in "aba"]
    assert [f.read_text() for f in files] == ["a", "b", "a"] and files[0] == files[2]
    assert room_of("memory://x") == room_of("memory://x") != room_of("memory://y")
    with pytest.raises(PhotoError, match=r"memory://mirror-d/none is not there"):
        fetched("memory://mirror-d/none")
