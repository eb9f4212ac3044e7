"""Configurations and pictures for the tests of augmentation."""

from __future__ import annotations

import torch

from fedssl.config import AugmentConfig

OFF = AugmentConfig(
    flip=False,
    rotate=0,
    scale=0,
    translate=0,
    gain=0,
    offset=0,
    mixing=0,
    contrast=0,
    gamma=0,
    blur=0,
    noise=0,
    bias=0,
    cutout=0,
)
GEOMETRY = OFF.model_copy(update={"flip": True, "rotate": 30.0, "scale": 0.2, "translate": 0.1})
SPACES = [(24, 40), (6, 20, 28)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**changes: object) -> AugmentConfig:
    return OFF.model_copy(update={"probability": 1.0, **changes})


def blocks(space: tuple[int, ...], batch: int = 3) -> torch.Tensor:
    """A label map of a few values in large blocks."""
    grids = torch.meshgrid(*(torch.arange(s) * 3 // s for s in space), indexing="ij")
    return sum(grids).repeat(batch, *(1,) * len(space)).long()  # type: ignore[union-attr]  # never the 0 of an empty sum
