"""An order done by a Ray cluster: Ray Data lists in tasks and works in a pool of actors.

What travels through Ray's object store are lines of text: chunks of addresses and reports. Photos go from
their store to the worker and back. Ray starts tasks and actors again that die; results do not depend on it,
since a chunk that is done twice writes the same bytes to the same names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dirformer.fleet.order import Chunk, Order, Report, Shard
from dirformer.ground.errors import ConfigError, MissingExtraError, OutputError

TRIES = 3
"""How often Ray begins a chunk again whose worker dies."""
IN_FLIGHT = 2
"""Chunks that wait at a worker, the one at work included."""
_SETTINGS = {
    "target_max_block_size": 1024,  # bytes, about one chunk: a block is what one worker takes at a time
    "max_errored_blocks": -1,  # a chunk that kills its workers does not end the run
    "enable_progress_bars": False,
}
_LISTERS = 16


_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What a run says is said by us: no reports to anybody, no lines of Ray between ours."""


def _ray() -> Any:
    try:
        import ray.data
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "fleet") from None
    return ray


@dataclass(frozen=True)
class Cluster:
    """Where the workers are."""

    address: str | None = None
    """Of a running cluster, or `auto`; None starts one on this machine, for this run."""
    processes: int | None = None
    """Workers; None is one for each GPU, or for each CPU without any."""
    object_store: int = 200 * 2**20
    """Bytes of the object store of a cluster that is started here; only text goes through it."""


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": cluster.object_store}
    if cluster.processes:
        own["num_cpus"] = cluster.processes
    options = {"address": cluster.address} if cluster.address else own
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = " ".join(str(error).split())[:100]
        raise ConfigError(f"no Ray cluster at {cluster.address or 'this machine'}: {what}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


class Actor:
    """A worker in an actor: loads its networks once."""

    def __init__(self, order: Order, threads: int) -> None:
        import torch

        from dirformer.fleet.worker import Worker

        torch.set_num_threads(threads)
        self._worker = Worker(order)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """Do a batch of chunks."""
        return {"report": [self._worker.work(Chunk.from_text(str(text))).to_text() for text in rows["chunk"]]}


class _Lister:
    """Lists shards in tasks of the cluster."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def __call__(self, rows: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        listing = self._order.listing()
        for kind, folder, sources in zip(rows["kind"], rows["folder"], rows["sources"], strict=True):
            for chunk in listing.chunks(Shard(str(kind), str(folder), tuple(map(str, sources)))):
                yield {"chunk": [chunk.to_text()]}


def run_cluster(order: Order, cluster: Cluster) -> Iterator[Report]:
    """Do an order by a Ray cluster; yield what became of each chunk, as they end.

    Raises:
        ConfigError: if there is no cluster at the address.
        MissingExtraError: if Ray is not installed.
        OutputError: if the cluster is lost.
    """
    with _connected(cluster) as ray:
        context = ray.data.DataContext.get_current()
        before = {name: getattr(context, name) for name in _SETTINGS}
        try:
            for name, value in _SETTINGS.items():
                setattr(context, name, value)
            yield from _reports(ray, order, cluster)
        except ray.exceptions.RayError as error:
            raise OutputError(
                f"the cluster gave up ({type(error).__name__}); results so far are kept: run again"
            ) from None
        finally:
            for name, value in before.items():
                setattr(context, name, value)


def _reports(ray: Any, order: Order, cluster: Cluster) -> Iterator[Report]:
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    count = cluster.processes or gpus or cpus
    share = {"num_gpus": 1} if gpus else {"num_cpus": 0.9}  # the rest of a CPU is for listing
    shards = [
        {"kind": shard.kind, "folder": shard.folder, "sources": list(shard.sources)}
        for shard in order.listing().shards()
    ]
    blocks = min(_LISTERS, len(shards))
    chunks = ray.data.from_items(shards, override_num_blocks=blocks).map_batches(
        _Lister(order), batch_size=1, num_cpus=0.1
    )
    with warnings.catch_warnings():
        # How often a task is tried has no named parameter in Ray Data, and no limit without one.
        warnings.simplefilter("ignore", DeprecationWarning)
        reports = chunks.map_batches(
            Actor,
            batch_size=1,
            fn_constructor_args=(order, max(1, cpus // count)),
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=IN_FLIGHT),
            max_restarts=-1,
            max_task_retries=TRIES,
            **share,
        )
    told = 0
    for row in reports.iter_rows():
        report = Report.from_text(str(row["report"]))
        told += report.told
        yield report
    lost = order.listing().count() - told
    if lost > 0:
        yield Report(
            errors=[
                f"{lost} photos are not {order.done}: {TRIES + 1} workers died at their chunks; run again"
            ]
        )
