"""A pass over a photo is recorded when its size comes again, and forgotten with another; simulated."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch import Tensor

from dirformer.inference import recorded
from dirformer.inference.recorded import Recorder

PHOTO, NOISE = torch.ones(1, 3, 4, 6), torch.zeros(1, 1, 2)


class Simulated(Recorder):
    """Its graph runs the function again on what was recorded."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        super().__init__(self.twice)

    def twice(self, photo: Tensor, noise: Tensor) -> Tensor:
        self.calls.append("launched")
        return 2 * photo + noise.sum()

    def _record(self, key: Hashable, photo: Tensor, noise: Tensor) -> Any:
        photo, noise = photo.clone(), noise.clone()
        out = self.twice(photo, noise)
        self.calls[-1] = "recorded"

        class Graph:
            def replay(graph) -> None:  # noqa: N805
                self.calls.append("replayed")
                out.copy_(2 * photo + noise.sum())

        return recorded._Recording(key, Graph(), photo, noise, out)


def test_a_size_that_comes_again_is_recorded() -> None:
    """Launched once, then recorded, then replayed, with the values of each photo and results of their own."""
    recorder = Simulated()
    results = [recorder(i * PHOTO, i + NOISE, "weights") for i in range(4)]
    assert recorder.calls == ["launched", "recorded", "replayed", "replayed", "replayed"]
    for i, result in enumerate(results):
        assert torch.equal(result, 2.0 * i * PHOTO + 2 * i)
    assert recorder.holds(4, 6) and not recorder.holds(6, 4)


def test_other_sizes_and_weights_begin_anew() -> None:
    """One recording is kept at a time, and none outlives the weights it was made with."""
    recorder = Simulated()
    for _ in range(2):
        recorder(PHOTO, NOISE, "weights")
    recorder(PHOTO.mT, NOISE, "weights")
    assert not recorder.holds(4, 6) and not recorder.holds(6, 4)
    for state in ("weights", "weights", "others"):
        recorder(PHOTO, NOISE, state)
    assert recorder.calls[2:] == ["replayed", "launched", "launched", "recorded", "replayed", "launched"]


def test_a_second_thread_does_not_wait() -> None:
    """While a recording is at work, another thread's photo is launched kernel by kernel."""
    recorder = Simulated()
    for _ in range(2):
        recorder(PHOTO, NOISE, "weights")
    with recorder._busy:
        thread = threading.Thread(target=recorder, args=(PHOTO, NOISE, "weights"))
        thread.start()
        thread.join(10)
    assert recorder.calls[-1] == "launched"


def test_what_cannot_be_recorded_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where CUDA records nothing, photos go on, and the log says why."""
    caplog.set_level("INFO", logger="dirformer")
    recorder = Recorder(lambda photo, noise: photo + noise.sum())
    if torch.cuda.is_available():
        pytest.skip("this machine records")
    for _ in range(4):
        assert torch.equal(recorder(PHOTO, NOISE, None), PHOTO)
    assert caplog.text.count("was not recorded") == 1
