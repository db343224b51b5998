"""Where to compute, and what randomness a result may depend on."""

from __future__ import annotations

import hashlib

import torch

from dirformer.ground.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: if the name is not a device or the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(
            f"device {name!r} is not available; expected auto, cpu, cuda, cuda:N or mps that this machine has"
        ) from None
    return device


def seeded_generator(seed: int, *parts: int | str | bytes) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and `parts` alone.

    Random numbers are drawn on the CPU and moved, so every device gives the same result; one generator
    per photo makes a result independent of batch, order and neighbours.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    # torch seeds are signed 64-bit.
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
