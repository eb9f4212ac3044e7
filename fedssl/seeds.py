"""Seeds by purpose: what is drawn depends on what it is for, never on the order of calls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch

__all__ = ["Rng", "derive_seed", "generators", "seeded"]


@dataclass(frozen=True, slots=True)
class Rng:
    """The two generators that an objective may draw from; both on the CPU."""

    numpy: np.random.Generator
    torch: torch.Generator


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a seed in [0, 2**63) for a purpose, e.g. `derive_seed(0, round, site, "drop")`."""
    text = "/".join([str(seed), *(str(p) for p in purpose)])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little") >> 1


def generators(seed: int, *purpose: int | str) -> Rng:
    """Return independent numpy and torch (CPU) generators for a purpose."""
    return Rng(
        numpy=np.random.default_rng(derive_seed(seed, *purpose, "numpy")),
        torch=torch.Generator().manual_seed(derive_seed(seed, *purpose, "torch")),
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Fork and seed the global generators (dropout, initialisation), and restore them after."""
    devices = [device] if device.type == "cuda" else []
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the global generator is what is meant
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 -- the global generator is what is meant
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002 -- the global generator is what is meant
