"""Work in a thread that can be stopped, one piece at a time on the device."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from dirformer.inference.layers import Progress

log = logging.getLogger(__name__)

R = TypeVar("R")
BEAT = 0.25
"""Seconds between two looks at whether the visitor is still there."""
_EARLY = 0.02
"""Share of the work before which the rest cannot be told."""
_DEVICE = threading.Lock()
"""Held by whoever computes: one photo at a time, however many visitors."""


class StoppedError(BaseException):
    """The visitor has cancelled or gone. No `Exception`: those are one photo's, and the next would follow."""


@dataclass(frozen=True)
class Share:
    """How far a piece of work is."""

    done: float
    """0 to 1; 0 while others are served."""
    left: float | None
    """Seconds that are left, by what has gone by; None before that can be told."""


class _Work(Generic[R]):
    def __init__(self, function: Callable[[Progress], R]) -> None:
        self.stop = threading.Event()
        self.news = queue.SimpleQueue[float | Exception | tuple[R]]()
        self._function = function

    def run(self) -> None:
        """Do the work when it is its turn; tell shares, and at the end the result in a tuple, or an error."""
        try:
            with self._turn():
                self._told(0.0)
                self.news.put((self._function(self._told),))
        except StoppedError:
            log.info("stopped by the visitor")
        except Exception as error:  # noqa: BLE001
            self.news.put(error)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        while not _DEVICE.acquire(timeout=BEAT):
            self._stop_if_asked()
        try:
            yield
        finally:
            _DEVICE.release()

    def _told(self, share: float) -> None:
        self._stop_if_asked()
        self.news.put(share)

    def _stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def latest(self) -> float | Exception | tuple[R] | None:
        """Return the newest share, or the end; None if nothing happened within a beat."""
        with contextlib.suppress(queue.Empty):
            news = self.news.get(timeout=BEAT)
            while isinstance(news, float) and not self.news.empty():
                news = self.news.get()
            return news
        return None


def in_thread(function: Callable[[Progress], R]) -> Generator[Share | R, None, None]:
    """Do the work in a thread and yield how far it is, again and again, then its result.

    Closing the generator stops the work at its next block: a visitor who has gone holds nobody up.

    Raises:
        Exception: of the work.
    """
    work = _Work(function)
    threading.Thread(target=work.run, name="restore", daemon=True).start()
    started, share = time.perf_counter(), Share(0.0, None)
    try:
        while not isinstance(news := work.latest(), tuple):
            if isinstance(news, Exception):
                raise news
            if news == 0:
                started = time.perf_counter()
            if news is not None:
                gone = time.perf_counter() - started
                share = Share(news, gone * (1 - news) / news if news > _EARLY else None)
            yield share
        yield news[0]
    finally:
        work.stop.set()
