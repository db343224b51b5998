"""One device or many: Fabric from the recipe, and network calls that pass through its wrapper."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from dirformer.ground.device import choose_device
from dirformer.ground.errors import ConfigError, DirformerError, MissingExtraError
from dirformer.training.config import TrainConfig

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long devices wait for one another: the first one saves for all."""


class Alone:
    """The only device, as far as `gathered` and `together` ask."""

    world_size, global_rank, is_global_zero = 1, 0, True


def open_fabric(config: TrainConfig) -> Any:
    """Return a launched Fabric for the recipe's devices, nodes and precision.

    Processes are started here, unless torchrun or SLURM has started them.

    Raises:
        ConfigError: if this machine has fewer devices, or a launcher started another number of processes.
        MissingExtraError: if lightning-fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

        from dirformer.training.mixed import mixed_precision
    except ModuleNotFoundError:
        raise MissingExtraError("lightning-fabric", "train") from None
    device = choose_device(config.device)
    count, nodes = _count(config, device), _nodes(config)
    world = count * nodes
    started = _started(world)
    if started not in (None, world):
        raise ConfigError(
            f"a launcher started {started} processes, the recipe has devices={count} nodes={nodes}; "
            "expected their product, or devices=auto nodes=auto"
        )
    strategy: Any = "auto"
    if world > 1:
        # In the warm-up of stage 2 no gradient reaches the DIRformer. Buffers need no broadcast: those of
        # spectral norm follow from the weights, running means of batch norm are never used.
        unused = config.stage == 2 and config.warmup.steps > 0
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {"find_unused_parameters": unused, "timeout": PATIENCE, buffers: False}
        strategy = DDPStrategy(**options)
    precision: Any = precision_on(device, config.precision)
    mixed: list[Any] = [mixed_precision(precision, device.type)] if precision.endswith("-mixed") else []
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None and world == 1 else count,
        num_nodes=nodes,
        strategy=strategy,
        precision=None if mixed else precision,
        plugins=mixed,
    )
    fabric.launch()
    if world > 1:
        # Fabric does so for NCCL alone. Gloo's threads let go of Python's objects a little after an exchange:
        # they must have ended before the interpreter does, or they abort the process.
        atexit.unregister(_part)
        atexit.register(_part)
    return fabric


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def precision_on(device: torch.device, precision: str) -> str:
    """Return what a recipe's precision is on a device.

    A CPU without AVX-512 computes bfloat16 by emulation: a step takes 2.5 times as long as in float32.

    Raises:
        ConfigError: for float16 on a CPU, which has no such training.
    """
    if precision == "16-mixed" and device.type == "cpu":
        raise ConfigError("precision=16-mixed needs a GPU, and the device is a CPU; set precision=bf16-mixed")
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "bf16-mixed" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "32-true"
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def _count(config: TrainConfig, device: torch.device) -> int:
    """Return the devices of one node; ConfigError if there are not as many."""
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type)
    if config.devices == "auto":
        return there or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if there is not None and config.devices > there:
        same = f"devices={there}"
        if config.devices % there == 0:
            same += f" accumulate={config.accumulate * config.devices // there}, for the same batch in all"
        raise ConfigError(f"devices is {config.devices}, but this machine has {there}; set {same}")
    return config.devices


def _nodes(config: TrainConfig) -> int:
    """Return the number of nodes; `auto` is what torchrun or SLURM says, else this one."""
    if config.nodes != "auto":
        return config.nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    return int(os.environ.get("SLURM_NNODES", "1"))


def _started(world: int) -> int | None:
    """Return how many processes a launcher has started; None without one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        # A batch script alone is one task; `srun` makes it many.
        return int(os.environ["SLURM_NTASKS"]) if "SLURM_PROCID" in os.environ or world > 1 else None
    return None


def gathered(fabric: Any, value: T) -> list[T]:
    """Return the value of each device, by rank, on all of them; it must be one that can be pickled."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def together(fabric: Any, work: Callable[[], T]) -> T:
    """Do something on each device and return its own value; an error of one ends it on all of them.

    Without this the others would wait for the one that failed.

    Raises:
        DirformerError: that of this device, or of the first that failed, named by its rank.
    """
    done: list[T] = []
    own: DirformerError | None = None
    try:
        done.append(work())
    except DirformerError as error:
        own = error
    failures = gathered(fabric, None if own is None else (type(own), str(own)))
    if own is not None:
        raise own
    for rank, failure in enumerate(failures):
        if failure is not None:
            kind, line = failure
            raise (DirformerError if kind is MissingExtraError else kind)(f"device {rank}: {line}")
    return done[0]


class Methods(nn.Module):
    """A network as Fabric takes it: which method to call is the first input of `forward`.

    Fabric and DDP do their work (autocast, gradients averaged over devices) around `forward` alone; a
    method called beside it would go without.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.network, method)(*inputs)


class Wrapped:
    """A network whose calls, of itself and of its own methods, pass through Fabric's wrapper."""

    def __init__(self, network: nn.Module, wrapper: Callable[..., Any]) -> None:
        self.network, self.wrapper = network, wrapper

    def __call__(self, *inputs: Any) -> Any:
        return self.wrapper("__call__", *inputs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.network, name)
        own = inspect.ismethod(value) and not hasattr(nn.Module, name)
        return partial(self.wrapper, name) if own else value
