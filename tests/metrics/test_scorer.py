"""Metrics opened for a protocol."""

from __future__ import annotations

import torch
from torch import Tensor

from dirformer.metrics.protocols import find_protocol
from dirformer.metrics.scorer import Scorer


def test_networks_of_metrics_multiply_in_float32_on_a_gpu() -> None:
    """cuDNN's own TF32 is off while a learned metric computes there, and as before afterwards."""
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]

    def exact(*_photos: Tensor) -> float:
        return float(all(switch.fp32_precision == "ieee" for switch in switches))

    scorer = Scorer(find_protocol("sr"), torch.device("cuda"), {"exact": exact})
    photo = torch.rand(3, 4, 4)
    assert scorer.scores(photo, photo) == {"exact": 1.0}
    assert [switch.fp32_precision for switch in switches] == before
