"""The largest patch and network that a memory holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Final

from fedssl.config import ModelConfig
from fedssl.data.sizes import padded_size
from fedssl.models.memory import training_bytes
from fedssl.models.unet import build_unet
from fedssl.types import Task

__all__ = ["LARGEST_SIDE", "NetworkPlan", "plan_network"]

LARGEST_SIDE: Final = {2: 512, 3: 128}
"""Patches do not grow beyond this, by spatial dimensions."""

_WIDTHS: Final = (32, 16, 8)
_BATCHES: Final = {2: (16, 8, 4), 3: (4, 2)}
_DEEPEST: Final = {2: 5, 3: 4}
_BOTTOM: Final = 4
"""Sides at the deepest level; below, a level sees the image as a point."""

_SCALES: Final = (1.0, 0.85, 0.7, 0.6, 0.5)
"""Shares of an image's sides that a patch is tried with."""

_AT_LEAST: Final = {2: 64, 3: 32}
_RESERVED: Final = 0.75e9
"""Bytes of the process and its libraries."""

_USABLE: Final = 0.7
"""Share of the rest; gradients of activations and workspaces take the other part."""

_BATCHES_PER_STEP: Final = 2
"""Labeled and unlabeled samples at mixed sites, or two networks of one method."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A network and the samples that it is trained with.

    Args:
        patch: (D,) H, W.
        batch: samples.
        width: channels of the first level.
        depth: halvings.
        needed: bytes of one step.
    """

    patch: tuple[int, ...]
    batch: int
    width: int
    depth: int
    needed: int


def plan_network(task: Task, size: tuple[int, ...], memory: int) -> NetworkPlan | None:
    """Return the widest network with the largest patch that fits, or None if nothing does.

    Wider networks come first, then larger patches, then larger batches; a patch has at least half
    of the image's sides.

    Args:
        task: its mode and channels decide the network.
        size: of the median image, per axis of the network's input.
        memory: bytes.
    """
    dims = task.spatial_dims
    usable = (memory - _RESERVED) * _USABLE
    for width in _WIDTHS:
        for scale in _SCALES:
            patch, depth = _patch(size, scale, dims)
            for batch in _BATCHES[dims]:
                needed = _bytes(task, width, depth, batch, patch)
                if needed <= usable:
                    return NetworkPlan(patch, batch, width, depth, needed)
    return None


def _patch(size: tuple[int, ...], scale: float, dims: int) -> tuple[tuple[int, ...], int]:
    """Return a patch that the network can halve, and how often it is halved."""
    sides = [_side(side, scale, dims) for side in size]
    depth = 1
    while depth < _DEEPEST[dims] and min(sides) >> (depth + 1) >= _BOTTOM:
        depth += 1
    return padded_size(sides, depth), depth


def _side(side: int, scale: float, dims: int) -> int:
    return min(max(round(side * scale), _AT_LEAST[dims]), side, LARGEST_SIDE[dims])


def _bytes(task: Task, width: int, depth: int, batch: int, patch: tuple[int, ...]) -> int:
    weights, per_value = _measured(task, width, depth)
    return weights + round(_BATCHES_PER_STEP * per_value * batch * prod(patch))


@cache
def _measured(task: Task, width: int, depth: int) -> tuple[int, float]:
    """Return the bytes that do not depend on the input, and those per pixel or voxel of it."""
    small = (2 ** (depth + 1),) * task.spatial_dims
    large = (2 ** (depth + 2),) * task.spatial_dims
    config = ModelConfig(width=width, depth=depth)
    first, second = (
        training_bytes(lambda: build_unet(config, task), (1, task.channels, *side))
        for side in (small, large)
    )
    per_value = (second - first) / (prod(large) - prod(small))
    return round(first - per_value * prod(small)), per_value
