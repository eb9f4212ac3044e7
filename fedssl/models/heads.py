"""Where a new network's last layers start from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from fedssl.types import Output, Task

__all__ = ["start_from_prior"]


def start_from_prior(model: nn.Module, prior: float, task: Task) -> None:
    """Set the heads' biases so that a new network guesses a share of foreground, in place.

    Torch's own biases give every class about the same share. Then the first steps push all weights
    of the foreground classes down together, and a narrow network may not find back: a class keeps
    negative weights on features that are never negative. Lin et al., "Focal loss for dense object
    detection", ICCV 2017, section 4.1, start from a small share for a like reason.

    Args:
        model: new network; its last convolutions are called `head`, or lie in `heads`.
        prior: in [0, 1); shared equally by exclusive classes, and of each nested one. 0 leaves the
            network as it is.
        task: as the network sees it.
    """
    if prior == 0:
        return
    classes = task.num_classes - 1
    if task.output == Output.EXCLUSIVE:
        bias = torch.tensor([1 - prior, *[prior / classes] * classes]).log()
    else:
        bias = torch.full((classes,), math.log(prior / (1 - prior)))
    with torch.no_grad():
        for head in _heads(model):
            cast("Tensor", head.bias).copy_(bias)


def _heads(model: nn.Module) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        *outer, last = name.split(".")
        if last == "head" or outer[-1:] == ["heads"]:
            yield module
