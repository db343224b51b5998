"""Mixed precision as training wants it of Fabric; imported where Fabric is there."""

from __future__ import annotations

from typing import Any

from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.plugins.precision.precision import Precision


class FullInputs(MixedPrecision):
    """Autocast around the network's call, whose inputs stay float32.

    Fabric's own rounds them to the low precision. In bfloat16 that is 1/256 of a bright pixel, which the skip
    would carry into the restored photo: no sample could come out at more than 59 dB.
    """

    def convert_input(self, data: Any) -> Any:
        """Return the inputs as they are: autocast rounds what goes into a product, and nothing else."""
        return data


class Bfloat16(FullInputs):
    """The same in bfloat16, which needs no scaled loss.

    Then nobody has to call Fabric's own `backward`, and a loss may hold a gradient (R1).
    """

    # Fabric compares this method with that of the base class.
    backward = Precision.backward


def mixed_precision(name: str, device: str) -> FullInputs:
    """Return Fabric's plugin for `bf16-mixed` or `16-mixed`."""
    return Bfloat16("bf16-mixed", device) if name == "bf16-mixed" else FullInputs("16-mixed", device)
