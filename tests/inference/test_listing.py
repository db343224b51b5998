"""Which photos are meant by names, folders and list files, and where their results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dirformer.ground.errors import ConfigError, OutputError, PhotoError
from dirformer.ground.mask import read_mask_for
from dirformer.inference.done import DoneLog, passed_over
from dirformer.inference.jobs import FileOptions, Replace, plan_jobs
from dirformer.inference.listing import find_inputs, read_list
from helpers import picture


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """in/a.png, in/deep/er/b.jpg, and what is no photo."""
    top = tmp_path / "in"
    (top / "deep" / "er").mkdir(parents=True)
    (top / ".hidden").mkdir()
    picture(8, 8).save(top / "a.png")
    picture(8, 8).save(top / "deep" / "er" / "b.jpg")
    picture(8, 8).save(top / ".hidden" / "c.png")
    for name in ("x.txt", "y.TXT", "deep/z.cr2", "README"):
        (top / name).write_text("no photo")
    return top


def outputs(inputs: list[Path], out: Path, **options: object) -> list[str]:
    return sorted(job.output.relative_to(out).as_posix() for job in plan_jobs(inputs, out, **options).jobs)


def test_a_folder_keeps_its_tree(tree: Path, tmp_path: Path) -> None:
    """in/deep/er/b.jpg → out/deep/er/b.jpg; hidden folders are left alone; the rest is counted by suffix."""
    planned = plan_jobs([tree], tmp_path / "out")
    assert outputs([tree], tmp_path / "out") == ["a.png", "deep/er/b.jpg"]
    assert passed_over(planned.passed.items()) == "2 .txt, 1 .cr2, 1 without suffix"
    assert any("z.cr2" in note for note in planned.notes) and not planned.errors


def test_results_and_masks_among_photos_are_not_photos(tree: Path, tmp_path: Path) -> None:
    """A folder of results, or of masks, within the folder of photos is not entered."""
    assert outputs([tree], tree / "deep") == ["a.png"]
    (tree / "masks" / "deep" / "er").mkdir(parents=True)
    picture(8, 8).save(tree / "masks" / "a.png")
    picture(8, 8).save(tree / "masks" / "deep" / "er" / "b_mask001.png")
    planned = plan_jobs([tree], tmp_path / "out", mask=tree / "masks")
    assert [job.mask.relative_to(tree).as_posix() for job in planned.jobs if job.mask] == [
        "masks/a.png",
        "masks/deep/er/b_mask001.png",
    ]
    assert len(planned.jobs) == 2 and not planned.errors


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_circle_of_links_ends(tree: Path, tmp_path: Path) -> None:
    """A folder that contains itself by a link is read once."""
    (tree / "deep" / "round").symlink_to(tree, target_is_directory=True)
    assert outputs([tree], tmp_path / "out") == ["a.png", "deep/er/b.jpg"]


def test_a_folder_of_results_may_have_a_dot(tree: Path, tmp_path: Path) -> None:
    """results.v1 is a folder for a folder or several photos; out.png is not."""
    assert outputs([tree], tmp_path / "results.v1") == ["a.png", "deep/er/b.jpg"]
    two = [tree / "a.png", tree / "deep/er/b.jpg"]
    assert outputs(two, tmp_path / "results.v1") == ["a.png", "b.jpg"]
    with pytest.raises(ConfigError, match="cannot go into the one file"):
        plan_jobs(two, tmp_path / "out.png")
    (tmp_path / "odd.png").mkdir()
    assert outputs([tree], tmp_path / "odd.png") == ["a.png", "deep/er/b.jpg"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_list_file_names_photos(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """UTF-8 with and without BOM, any line end, comments; relative names keep their folders."""
    picture(8, 8).save(tree / "é.png")
    lines = ["# holidays", "", "in/a.png", "in/deep/er/b.jpg", "in/é.png", "in/none.png"]
    (tmp_path / "list.txt").write_bytes(start + "\r\n".join(lines).encode())
    monkeypatch.chdir(tmp_path)
    planned = plan_jobs([Path("@list.txt")], Path("out"))
    found = sorted(job.output.as_posix() for job in planned.jobs)
    assert found == ["out/in/a.png", "out/in/deep/er/b.jpg", "out/in/é.png"]
    assert ["none.png is not there" in str(error) for error in planned.errors] == [True]
    monkeypatch.chdir(tree)  # names that are not there are looked for beside the list
    assert len(find_inputs([tmp_path / "@list.txt"]).photos) == 3
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(PhotoError, match="names no photos"):
        read_list(tmp_path / "empty.txt")


@pytest.mark.parametrize("url", ["memory://x.png", "s3://bucket/x.png", "https://example.org/x.png"])
def test_urls_are_refused_in_words(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a photo, a result and a mask; no folder of that name is made."""
    picture(8, 8).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    for inputs, out, mask in (
        ([Path(url)], Path("out.png"), None),
        ([Path("in.png")], Path(url), None),
        ([Path("in.png")], Path("out.png"), Path(url)),
    ):
        with pytest.raises(ConfigError, match=r":// is not supported"):
            plan_jobs(inputs, out, mask=mask)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_photos_are_not_replaced_by_their_results(tree: Path) -> None:
    """Not by --overwrite, in any spelling; by --in-place alone."""
    for out in (tree, tree / "deep" / ".."):
        planned = plan_jobs([tree], out, replace=Replace(overwrite=True))
        assert not planned.jobs
        assert all("is one of the photos" in str(error) for error in planned.errors)
    assert len(plan_jobs([tree], tree, replace=Replace(in_place=True)).jobs) == 2


def test_in_place_replaces_nothing_but_the_photo(tree: Path, tmp_path: Path) -> None:
    """A foreign file elsewhere, and another photo of the run, stay."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("foreign")
    rules = Replace(in_place=True)
    (error,) = plan_jobs([tree], out, replace=rules).errors
    assert "out/a.png exists already; add --overwrite" in str(error)
    picture(8, 8, seed=1).save(tree / "a.jpg")
    planned = plan_jobs(
        [tree / "a.jpg", tree / "a.png"], tree, replace=rules, options=FileOptions(format="png")
    )
    assert [job.photo.name for job in planned.jobs] == ["a.png"]
    assert "is one of the photos" in str(planned.errors[0])


def test_the_map_of_several_draws_has_a_place_of_its_own(tree: Path, tmp_path: Path) -> None:
    """It meets no other result, no photo and no foreign file."""
    (job, _) = plan_jobs([tree], tmp_path / "out", spread=True).jobs
    assert job.spread == tmp_path / "out" / "a_spread.png"
    assert plan_jobs([tree], tmp_path / "out").jobs[0].spread is None
    picture(8, 8).save(tree / "a_spread.png")
    (error,) = plan_jobs([tree], tmp_path / "out", spread=True).errors
    assert "would both be written to" in str(error)
    one = plan_jobs([tree / "a_spread.png"], tree / "a.png", replace=Replace(overwrite=True), spread=True)
    assert "is one of the photos" in str(one.errors[0])
    (tmp_path / "b_spread.png").write_text("foreign")
    one = plan_jobs([tree / "a.png"], tmp_path / "b.png", spread=True)
    assert "b_spread.png exists already; add --overwrite" in str(one.errors[0])


def test_a_pipe_is_the_commands_alone(tree: Path) -> None:
    """From Python `-` would become a folder; and a pipe holds no mask."""
    with pytest.raises(ConfigError, match="on the command line only"):
        plan_jobs([tree / "a.png"], Path("-"))
    with pytest.raises(ConfigError, match="the mask is -"):
        plan_jobs([tree / "a.png"], Path("out.png"), mask=Path("-"))


def test_two_photos_for_one_place(tree: Path, tmp_path: Path) -> None:
    """Folders with the same names: the second is named; what exists needs --overwrite."""
    picture(8, 8).save(tmp_path / "a.png")
    planned = plan_jobs([tree, tmp_path / "a.png"], tmp_path / "out")
    assert len(planned.jobs) == 2
    assert "would both be written" in str(planned.errors[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("foreign")
    rules = Replace(log=DoneLog(tmp_path / "out"))
    (error,) = plan_jobs([tree], tmp_path / "out", replace=rules).errors
    assert isinstance(error, OutputError) and "add --overwrite" in str(error)


def test_sizes_exclude_each_other() -> None:
    """A factor and a box; a larger canvas and another size."""
    for wrong in ({"scale": 2.0, "box": (10, None)}, {"extend": (1, 0, 0, 0), "scale": 2.0}, {"scale": 0.0}):
        with pytest.raises(ConfigError):
            FileOptions(**wrong)


def test_a_line_of_a_list_ends_with_a_newline_alone(tmp_path: Path) -> None:
    """Other characters that end lines elsewhere are parts of names."""
    names = ["a\u2028b.png", "c\x85d.png", "e\x0cf.png", "g\x1ch.png"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(names).encode())
    assert [path.name for path in read_list(tmp_path / "list.txt")] == names


@pytest.mark.parametrize("suffix", [".png", ""])
def test_a_name_that_no_file_can_have_is_a_photos_error(tree: Path, tmp_path: Path, suffix: str) -> None:
    """Longer than the system takes: said of the photo, mask or list, and nobody speaks of the output."""
    name = Path("a" * 300 + suffix)
    (error,) = plan_jobs([name], tmp_path / "out").errors
    assert isinstance(error, PhotoError) and "cannot be opened: File name too long" in str(error)
    with pytest.raises(PhotoError, match="the list"):
        find_inputs([Path(f"@{name}")])
    with pytest.raises(PhotoError, match=r"cannot be opened|is not there"):
        read_mask_for(tree / "a.png", name, (8, 8))
