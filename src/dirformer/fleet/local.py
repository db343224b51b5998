"""An order done by processes of this machine: a pool of workers with a bounded number of chunks in flight."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

from dirformer.fleet.order import Chunk, Order, Report

TRIES = 3
"""How often a chunk is begun whose worker dies."""
_worker: Any = None
"""Of this process, in a pool."""


def run_here(order: Order) -> Iterator[Report]:
    """Do an order in this process; yield what became of each chunk."""
    from dirformer.fleet.worker import Worker

    worker, listing = Worker(order), order.listing()
    for shard in listing.shards():
        for chunk in listing.chunks(shard):
            yield worker.work(chunk)


def run_pool(order: Order, processes: int) -> Iterator[Report]:
    """Do an order by a pool of processes; yield what became of each chunk, as they end.

    A worker that dies is replaced, and its chunk begun again; after `TRIES` the chunk's photos have failed.
    """
    listing = order.listing()
    chunks = itertools.chain.from_iterable(listing.chunks(shard) for shard in listing.shards())
    waiting: list[tuple[Chunk, int]] = []
    while True:
        flying: dict[Future[str], tuple[Chunk, int]] = {}
        pool = ProcessPoolExecutor(
            processes, get_context("spawn"), initializer=begin, initargs=(order, processes)
        )
        try:
            while True:
                while len(flying) < _room(flying, waiting, processes):
                    chunk, tries = waiting.pop() if waiting else (next(chunks, None), 0)
                    if chunk is None:
                        break
                    waiting.append((chunk, tries))  # kept, should the pool be broken by now
                    future = pool.submit(work, chunk.to_text())
                    flying[future] = waiting.pop()
                if not flying:
                    return
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    text = future.result()
                    del flying[future]
                    yield Report.from_text(text)
        except BrokenProcessPool:
            # The pool does not say whose work it was: all in flight is begun again.
            for chunk, tries in flying.values():
                if tries + 1 < TRIES:
                    waiting.append((chunk, tries + 1))
                else:
                    yield lost(chunk, tries + 1, order.done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _room(
    flying: dict[Future[str], tuple[Chunk, int]], waiting: list[tuple[Chunk, int]], processes: int
) -> int:
    """Return how many chunks may be in flight; one that was there when a worker died goes alone."""
    suspect = waiting or any(tries for _, tries in flying.values())
    return 1 if suspect else 2 * processes


def lost(chunk: Chunk, tries: int, done: str) -> Report:
    """Return the report of a chunk whose workers died."""
    report = Report.of(chunk)
    report.errors += [
        f"{item.name} is not {done}: {tries} workers died at its chunk; run again" for item in chunk.items
    ]
    return report


def begin(order: Order, processes: int) -> None:
    """Make a process of the pool ready."""
    import torch

    from dirformer.fleet.worker import Worker

    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _worker  # noqa: PLW0603
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    _worker = Worker(order)


def _end_with_parent() -> None:
    """End when the driver does, however it does: nobody would take the results."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work(text: str) -> str:
    """Do a chunk in a process of the pool."""
    report: str = _worker.work(Chunk.from_text(text)).to_text()
    return report
