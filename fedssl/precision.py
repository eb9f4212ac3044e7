"""Half precision, where a run asks for it."""

from __future__ import annotations

import logging
from functools import cache

import torch

from fedssl.config import RunConfig
from fedssl.types import Task

__all__ = ["autocast"]

log = logging.getLogger("fedssl")


def autocast(run: RunConfig, task: Task, device: torch.device) -> torch.autocast:
    """Return the context of a training step, by the run's key `precision`.

    Warns, once in a process, of volumes in bfloat16 on the CPU.
    """
    bf16 = run.precision == "bf16"
    if bf16 and device.type == "cpu" and task.spatial_dims == 3:
        _warn_of_volumes()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


@cache
def _warn_of_volumes() -> None:
    # Seen with torch 2.13: weight gradients of about 1e36 or NaN, from finite outputs.
    log.warning(
        "Key 'precision' = 'bf16' on the CPU: PyTorch's 3D convolutions may return wrong or "
        "infinite gradients there for feature maps that are 2 voxels deep. Make patches at least "
        "4 * 2 ** model.depth voxels deep, or set precision = 'fp32'."
    )
