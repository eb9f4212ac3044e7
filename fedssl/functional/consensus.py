"""Consensus of models: random subsets, distances, and weights that depend on losses.

`sub_consensus`: Liang, Lin, Fu, Zhu, Li, "RSCFed: Random Sampling Consensus Federated
Semi-supervised Learning", CVPR 2022. `loss_weights`: Wicaksana et al., "FedMix: Mixed Supervised
Federated Learning for Medical Image Segmentation", arXiv 2205.01840.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedssl.functional.averaging import weighted_average
from fedssl.types import Arrays

__all__ = [
    "Member",
    "consensus_weights",
    "draw_subsets",
    "loss_weights",
    "model_distance",
    "sub_consensus",
]


@dataclass(frozen=True, slots=True)
class Member:
    """One site's part in a consensus.

    Args:
        state: its weights.
        size: its number of samples, above 0.
        labeled: whether it has masks.
        factor: multiplies its share of the samples; at least 0.
    """

    state: Mapping[str, Tensor]
    size: float
    labeled: bool
    factor: float = 1.0


def draw_subsets(count: int, subsets: int, size: int, rng: np.random.Generator) -> list[list[int]]:
    """Return `subsets` random subsets of `range(count)`, each of `min(size, count)` in order."""
    size = min(size, count)
    return [
        sorted(int(i) for i in rng.choice(count, size=size, replace=False)) for _ in range(subsets)
    ]


def model_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the sum over float tensors of their L2 distance, in float64."""
    return math.fsum(
        (x.double() - b[name].double()).norm().item()
        for name, x in a.items()
        if torch.is_floating_point(x)
    )


def consensus_weights(
    frequencies: Sequence[float], penalties: Sequence[float], factors: Sequence[float]
) -> list[float]:
    """Return weights proportional to `frequency * exp(-penalty) * factor`; they sum to 1.

    Computed from logarithms: with large penalties all products underflow, their ratios do not.

    Raises:
        ValueError: no member has a positive frequency and factor.
    """
    logs = [
        math.log(f * m) - p if f * m > 0 else -math.inf
        for f, p, m in zip(frequencies, penalties, factors, strict=True)
    ]
    top = max(logs, default=-math.inf)
    if top == -math.inf:
        raise ValueError("A consensus needs a member with a positive weight.")
    raw = [math.exp(value - top) for value in logs]
    total = math.fsum(raw)
    return [value / total for value in raw]


def sub_consensus(
    members: Sequence[Member], *, labeled_factor: float, labeled_scale: float, scale: float
) -> Arrays:
    """Return the consensus model of one subset.

    The mean by samples, a labeled member's counted `labeled_factor` times, gives distances d_i;
    then member i weighs its share of that mean times `exp(-s d_i / n_i)`, a labeled one times
    `labeled_factor` once more, where s = `labeled_scale` if the subset holds a labeled member,
    else `scale`.

    Args:
        members: at least one with a positive factor.
        labeled_factor: multiplier of labeled members.
        labeled_scale: of distances in a subset with a labeled member.
        scale: of distances in other subsets.
    """
    factors = [labeled_factor if m.labeled else 1.0 for m in members]
    shares = [m.size * m.factor * f for m, f in zip(members, factors, strict=True)]
    states = [m.state for m in members]
    mean = weighted_average(states, shares)
    s = labeled_scale if any(m.labeled for m in members) else scale
    penalties = [s * model_distance(m.state, mean) / max(m.size, 1.0) for m in members]
    return weighted_average(states, consensus_weights(shares, penalties, factors))


def loss_weights(
    counts: Sequence[float], losses: Sequence[float], *, beta: float = 10.0, gamma: float = 1.5
) -> list[float]:
    """Return `n_i / sum n + beta * loss_i^gamma / sum loss^gamma`, normalised to sum 1.

    A site with count 0 gets weight 0, and its loss is left out.

    Args:
        counts: samples that a site learned from, at least one above 0.
        losses: mean training losses, at least 0.
        beta: weight of the loss part.
        gamma: exponent.
    """
    powers = [loss**gamma if n > 0 else 0.0 for n, loss in zip(counts, losses, strict=True)]
    total, hard = math.fsum(counts), math.fsum(powers)
    raw = [
        n / total + (beta * p / hard if hard > 0 else 0.0)
        for n, p in zip(counts, powers, strict=True)
    ]
    whole = math.fsum(raw)
    return [value / whole for value in raw]
