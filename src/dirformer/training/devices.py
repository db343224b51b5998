"""One device or many: Fabric from the recipe, and network calls that pass through its wrapper."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import nn

from dirformer.ground.device import choose_device
from dirformer.ground.errors import ConfigError, MissingExtraError
from dirformer.training.config import TrainConfig

PATIENCE = timedelta(hours=2)
"""How long devices wait for one another: the first one validates and saves for all."""


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
    except ModuleNotFoundError:
        raise MissingExtraError("lightning-fabric", "train") from None
    device = choose_device(config.device)
    count = _count(config, device)
    world = count * config.nodes
    started = _started(world)
    if started not in (None, world):
        raise ConfigError(
            f"a launcher started {started} processes, the recipe has devices={count} nodes={config.nodes}; "
            "expected their product"
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
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None and world == 1 else count,
        num_nodes=config.nodes,
        strategy=strategy,
        precision=precision,
    )
    fabric.launch()
    return fabric


def precision_on(device: torch.device, precision: str) -> str:
    """Return what a recipe's precision is on a device.

    A CPU without AVX-512 computes bfloat16 by emulation: a step takes 2.5 times as long as in float32.
    """
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


def _started(world: int) -> int | None:
    """Return how many processes a launcher has started; None without one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        # A batch script alone is one task; `srun` makes it many.
        return int(os.environ["SLURM_NTASKS"]) if "SLURM_PROCID" in os.environ or world > 1 else None
    return None


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
