"""Named parts of a network, and its stochastic mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["channels_last", "norm_names", "set_stochastic", "shared_parts", "stochastic"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORMS = (
    *_BATCH_NORMS,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)
_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def shared_parts(model: nn.Module) -> dict[str, list[str]]:
    """Return the parts of a method that shares everything: all parameters and buffers."""
    return {"shared": list(model.state_dict())}


def norm_names(model: nn.Module) -> list[str]:
    """Return the state-dict names of normalisation layers, found by module type."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name in module.state_dict()
    ]


def channels_last(model: nn.Module) -> None:
    """Store a network's kernels channels-last, in place; inputs follow at the first convolution.

    Names, shapes and values stay. On a CPU a step in 3D takes 0.8 of its time, in bfloat16 0.75; in
    2D the same and 0.9 (`benchmarks/layout.py`).
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def set_stochastic(model: nn.Module, bn_batch: bool = False) -> None:
    """Put a network into eval mode, except for its dropout modules.

    Args:
        model: changed in place; `model.train()` does not undo `bn_batch`, `stochastic` does.
        bn_batch: BatchNorm uses the statistics of the batch and leaves its running ones alone.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, _DROPOUTS):
            module.train()
        elif bn_batch and isinstance(module, _BATCH_NORMS):
            module.train()
            # Training mode without tracking: batch statistics in, nothing written.
            module.track_running_stats = False


@contextmanager
def stochastic(model: nn.Module, bn_batch: bool = False) -> Iterator[None]:
    """Apply `set_stochastic` for a block, and restore every module's mode after it."""
    modes = [(m, m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    try:
        set_stochastic(model, bn_batch)
        yield
    finally:
        for module, training, tracking in modes:
            module.training = training
            if isinstance(module, _BATCH_NORMS) and tracking is not None:
                module.track_running_stats = tracking
