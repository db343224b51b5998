"""Work in a thread that can be stopped."""

from __future__ import annotations

import threading

import pytest

from dirformer.app.background import Share, StoppedError, in_thread
from dirformer.inference.layers import Progress


def test_result_comes_last() -> None:
    """Shares come first, then the result; the shares grow."""

    def work(told: Progress) -> str:
        for step in range(5):
            told((step + 1) / 5)
        return "done"

    *shares, result = in_thread(work)
    assert result == "done"
    done = [share.done for share in shares if isinstance(share, Share)]
    assert done == sorted(done)


def test_error_reaches_the_reader() -> None:
    """An error of the work is raised where the shares are read, and the next work is done."""

    def work(told: Progress) -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(in_thread(work))
    assert list(in_thread(lambda _: "next"))[-1] == "next"


def test_closing_stops_the_work() -> None:
    """Closing the generator ends the work at its next share, and lets the next one begin."""
    begun, stopped = threading.Event(), threading.Event()

    def endless(told: Progress) -> str:
        try:
            while True:
                told(0.5)
                begun.set()
        except StoppedError:
            stopped.set()
            raise

    news = in_thread(endless)
    next(news)
    assert begun.wait(60)
    news.close()
    assert stopped.wait(60)
    assert list(in_thread(lambda _: "next"))[-1] == "next"


def test_one_at_a_time() -> None:
    """While one piece of work has the device, another waits, and can give up waiting."""
    release, inside = threading.Event(), threading.Event()

    def slow(told: Progress) -> str:
        inside.set()
        release.wait(60)
        return "slow"

    first = in_thread(slow)
    next(first)
    assert inside.wait(60)
    ran = threading.Event()
    second = in_thread(lambda _: ran.set())
    assert next(second) == Share(0.0, None)
    second.close()
    release.set()
    assert list(first)[-1] == "slow"
    assert not ran.is_set()
