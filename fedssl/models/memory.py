"""How much memory a training step of a network needs, without taking any of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fedssl.models.base import SegmentationModel

__all__ = ["saved_bytes", "training_bytes"]

_COPIES = 4
"""Weights, gradients, and the two moments of Adam."""


def saved_bytes(model: SegmentationModel, shape: tuple[int, ...]) -> int:
    """Return the bytes of activations that one forward pass keeps for the backward pass.

    Args:
        model: on any device; on `meta` nothing is allocated and nothing computed.
        shape: [B, C, *S] of the input.
    """
    weights = {p.untyped_storage()._cdata for p in model.parameters()}  # noqa: SLF001 -- the only identity that meta tensors have
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 -- the only identity that meta tensors have
        if key not in weights:
            kept[key] = storage
        return tensor

    device = next(model.parameters()).device
    model.train()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.empty(shape, device=device))
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


def training_bytes(
    build: Callable[[], SegmentationModel], shape: tuple[int, ...], batches: int = 1
) -> int:
    """Return the bytes of weights, gradients, optimizer and activations of one step, in float32.

    What a library takes besides (workspaces, allocator, the process itself) is not in it.

    Args:
        build: makes the network.
        shape: [B, C, *S] of one batch.
        batches: that one step keeps activations of, e.g. 2 where labeled and unlabeled samples
            are trained together.
    """
    with torch.device("meta"):
        model = build()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return _COPIES * weights + batches * saved_bytes(model, shape)
