"""Do an order by the engine that was asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from dirformer.fleet.cluster import Cluster, run_cluster
from dirformer.fleet.local import run_here, run_pool
from dirformer.fleet.order import Order, Report
from dirformer.ground.errors import ConfigError, DirformerError

ENGINES = ("local", "ray")


def run(order: Order, engine: str = "local", cluster: Cluster | None = None) -> Iterator[Report]:
    """Do what an order asks for; yield what became of each chunk of photos, as they end.

    Args:
        order: photos, places and options.
        engine: `local` (processes of this machine; one is this process) or `ray`.
        cluster: number of workers, and where they are.

    Raises:
        ConfigError: for another engine.
        DirformerError: if nothing can be done.
    """
    cluster = cluster or Cluster()
    check(order, engine, cluster)
    if engine == "ray":
        return run_cluster(order, cluster)
    processes = cluster.processes or 1
    return run_here(order) if processes == 1 else run_pool(order, processes)


def check(order: Order, engine: str, cluster: Cluster) -> None:
    """Raise ConfigError for what an engine cannot do, before anything is written."""
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; expected one of {', '.join(ENGINES)}")
    if engine == "ray":
        return
    if cluster.address is not None:
        raise ConfigError(f"address is {cluster.address!r}, but the engine is local; it is for --engine ray")
    several = (cluster.processes or 1) > 1
    if several and "memory" in {place.protocol for place in (*order.sources, order.out)}:
        raise ConfigError("memory:// belongs to one process; expected --processes 1 with it")


@contextlib.contextmanager
def counting(order: Order, told: Callable[[int], None]) -> Iterator[None]:
    """Count the photos of an order beside the work, for an ETA; `told` hears the number when it is known."""

    def count() -> None:
        # What cannot be listed, the work will say.
        with contextlib.suppress(DirformerError):
            told(order.listing().count())

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    yield
