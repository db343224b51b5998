"""What a photo will take is said before it is restored."""

from __future__ import annotations

from pathlib import Path

from dirformer.inference.forecast import SEARCH, Forecast, forecasts
from dirformer.inference.jobs import FileOptions, Job
from dirformer.inference.options import RestoreOptions
from helpers import picture


def test_the_search_for_exemplars_counts(tmp_path: Path) -> None:
    """Filling holes from exemplars takes memory of its own, by the pixel of the padded photo."""
    picture(64, 48).save(tmp_path / "a.png")
    memory = {}
    for fill in ("smooth", "exemplar"):
        jobs = [Job(tmp_path / "a.png", tmp_path / "b.png")]
        (found,) = forecasts("inpainting-compact", jobs, RestoreOptions(fill=fill), FileOptions())
        assert isinstance(found, Forecast)
        memory[fill] = found.memory
    assert memory["exemplar"] - memory["smooth"] == SEARCH * 64 * 48
