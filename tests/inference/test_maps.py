"""Feature maps: in memory or on disk, they hold what was written until it is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dirformer.ground.errors import OutputError
from dirformer.inference.maps import Map


@pytest.mark.parametrize("resident", [None, 0, 5])
def test_rows_outlive_their_eviction(resident: int | None, tmp_path: Path) -> None:
    """Evicted rows can be read again; the file they wait in has no name."""
    values = Map(40, 64, 8, resident=resident, folder=tmp_path)
    expected = torch.rand(40, 64, 8)
    values.rows.copy_(expected)
    values.evict(0, 40)
    assert torch.equal(values.rows, expected)
    assert not list(tmp_path.iterdir())


def test_released_rows_leave_the_others_alone() -> None:
    """Rows given back take nothing from their neighbours, though memory goes by the page."""
    values = Map(40, 50, 3)
    expected = torch.rand(40, 50, 3)
    values.rows.copy_(expected)
    values.release(10, 30)
    assert torch.equal(values.rows[:10], expected[:10])
    assert torch.equal(values.rows[30:], expected[30:])


def test_no_room_is_one_line(tmp_path: Path) -> None:
    """A folder that cannot take the map is named, with what to do."""
    with pytest.raises(OutputError, match="TMPDIR"):
        Map(4, 4, 4, resident=0, folder=tmp_path / "missing")
