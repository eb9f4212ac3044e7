"""Thresholds that let rare classes through.

Li, Li, Wang, "Class Balanced Adaptive Pseudo Labeling for Federated Semi-Supervised Learning",
CVPR 2023; pixels in place of images (ours).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Selected", "class_thresholds", "select_balanced"]

OFFSET = 0.84


class Selected(NamedTuple):
    """Labels and the pixels that are learned from."""

    label: Int[Tensor, " B *S"]
    keep: Bool[Tensor, " B *S"]


def class_thresholds(
    share: Float[Tensor, " K"], cap: float = 0.95, floor: float = 0.0
) -> Float[Tensor, " K"]:
    """Return `p_c K / 10 + 0.84 - std(p)` for each class, within [floor, cap].

    Args:
        share: p, the classes' share of all labels; sums to 1. Its standard deviation has the
            divisor K.
        cap: the largest threshold.
        floor: the smallest one; ours. Background fills most of an image, so that `std(p)` is large
            and all thresholds but its own are so low that nearly every pixel passes.
    """
    spread = share.std(correction=0)
    return (share * len(share) / 10 + OFFSET - spread).clamp_min(floor).clamp_max(cap)


def select_balanced(
    prob: Float[Tensor, "B K *S"],
    share: Float[Tensor, " K"],
    *,
    cap: float = 0.95,
    tail: float = 0.03,
    floor: float = 0.0,
) -> Selected:
    """Return labels, and where they count.

    The most probable class counts if its probability exceeds the class's threshold. If not, and
    if the second class has a share below `tail`, the second class is taken and counts.

    Args:
        prob: over K >= 2 classes.
        share: the classes' share of all labels.
        cap: the largest threshold.
        tail: share below which a class is rare.
        floor: the smallest threshold.
    """
    share = share.to(prob)
    top = prob.topk(2, dim=1)
    first, second = top.indices[:, 0], top.indices[:, 1]
    confident = top.values[:, 0] > class_thresholds(share, cap, floor)[first]
    rescued = ~confident & (share[second] < tail)
    return Selected(torch.where(rescued, second, first), confident | rescued)
