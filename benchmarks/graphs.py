"""Steps of training on a GPU, their kernels launched one by one or recorded as a CUDA graph.

    python benchmarks/graphs.py RECIPE data.train=DIR key=value …
    python benchmarks/graphs.py --count RECIPE data.train=DIR key=value …

The two take turns; wall-clock time of a step without the waiting for its data. How long the GPU is busy
comes from PyTorch's profiler.

`--count` needs no GPU: it estimates the launches of a step by part. The step runs on the CPU as on a GPU, by
stock torch in bfloat16, with the optimiser's ways of a GPU. An operation is a launch, views and allocations
are none. An operation over lists of tensors is a launch for each share of them.
"""

from __future__ import annotations

import collections
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from dirformer.kernels.build import SWITCH
from dirformer.networks.dirformer import Block
from dirformer.training import optimisers
from dirformer.training.config import load_recipe
from dirformer.training.devices import open_fabric
from dirformer.training.samples import Samples
from dirformer.training.step import Step
from dirformer.training.trial import try_out

STEPS, ROUNDS = 20, 5
NO_WORK = {"alias", "chunk", "detach", "expand", "permute", "select", "slice", "split", "split_with_sizes"}
NO_WORK |= {"squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "promote_types"}
NO_WORK |= {"device", "_local_scalar_dense"}
SHARES = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""How many lists of tensors an operation takes → how many of each go into one launch (MultiTensorApply)."""


class Launches(TorchDispatchMode):
    """Estimates launches by the name of the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in NO_WORK and not name.startswith(("_record", "empty", "new_empty")):
            lists = [a for a in args if isinstance(a, list) and a and isinstance(a[0], torch.Tensor)]
            many = name.startswith(("_foreach", "_fused"))
            self.counts[name] += -(-len(lists[0]) // SHARES[len(lists)]) if many else 1
        return function(*args, **(kwargs or {}))


def counted(work: Callable[[], Any]) -> collections.Counter[str]:
    with Launches() as launches:
        work()
    return launches.counts


def count(recipe: str, *overrides: str) -> None:
    os.environ[SWITCH] = "0"  # a GPU has no kernels for whole blocks from this package's C++
    common = [*overrides, "device=cpu", "precision=bf16-mixed", "graphs=false", "log=[]"]
    with tempfile.TemporaryDirectory() as folder:
        config = load_recipe(recipe, common).model_copy(update={"out": Path(folder)})
        fabric = open_fabric(config)
        samples = Samples(config)
        step = Step(config, fabric)
        raw = next(iter(samples.stream(0, 0, 1)))
        batch = step.stage.draw(samples.prepare(raw, config.warmup.steps, fabric.device))
        total = counted(lambda: step._gradients(batch))  # noqa: SLF001
        for block in step.stage.network.modules():
            if isinstance(block, Block):
                vars(block)["forward"] = lambda x, _: x
        around = counted(lambda: step._gradients(batch))  # noqa: SLF001
    show("losses and gradients", total)
    show("the same without the transformer blocks", around)
    network = step.stage.network
    show("clip", clip_launches([p.shape for p in network.parameters() if p.requires_grad]))
    with mock.patch.object(optimisers, "_capacity", return_value=(optimisers.PADDED, torch.bfloat16)):
        optimiser = optimisers.optimiser_of(network, config.optimiser, fused=True)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimiser.step()  # makes its state
        show(f"optimiser ({config.optimiser.kind})", counted(optimiser.step))
    show("ema", counted(lambda: step.ema.update(network, 1)))


def clip_launches(sizes: list[torch.Size]) -> collections.Counter[str]:
    """Count those of a clip, on tensors that only claim to be on a GPU: a CPU takes one tensor at a time."""
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(size, device="cuda")) for size in sizes]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        return counted(lambda: nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True))


def show(name: str, counts: collections.Counter[str]) -> None:
    most = ", ".join(f"{name} {times}" for name, times in counts.most_common(6))
    print(f"{name}: {sum(counts.values())} ({most})")


def main(recipe: str, *overrides: str) -> None:
    config = load_recipe(recipe, [*overrides, "device=cuda"])
    fabric = open_fabric(config)
    try_out(config, fabric)  # libraries choose kernels
    milliseconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for graphs, values in milliseconds.items():
            trial = try_out(config.model_copy(update={"graphs": graphs}), fabric, STEPS)
            values.append(trial.seconds * (1 - trial.data_wait) * 1e3)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        try_out(config, fabric, STEPS)
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / (STEPS + 2) / 1e3
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for graphs, values in milliseconds.items():
        print(f"{'recorded' if graphs else 'launched'}: {statistics.median(values):.1f} ms a step")
    print(f"ratio {statistics.median(a / b for a, b in zip(*milliseconds.values(), strict=True)):.2f}")
    print(f"GPU busy in a launched step: {busy:.1f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--count"]:
        count(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
