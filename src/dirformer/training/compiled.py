"""`compile` of a recipe: the DIRformer through torch.compile, as a whole or block by block."""

from __future__ import annotations

from typing import Literal

from dirformer.networks.diffir import DiffIR
from dirformer.networks.dirformer import Block

LIMIT = 64
"""How often a block may be compiled anew: five sizes of it, for each size of patches."""


def compile_network(network: DiffIR, how: bool | Literal["blocks"]) -> None:
    """Have the DIRformer compiled when it is first called.

    A network has dozens of blocks of four or five sizes. Compiled as a whole, each is compiled anew;
    block by block, those of one size share what was made for the first.
    """
    if how == "blocks":
        from torch._dynamo import config  # a second to import, and seldom wanted

        # Behind the limit torch runs a block as it is written, and says so in a log only.
        config.recompile_limit = max(config.recompile_limit, LIMIT)
        for module in network.dirformer.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)
    elif how:
        network.dirformer.compile()
