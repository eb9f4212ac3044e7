"""The coordinator as an optimizer: the sites' mean change is its gradient.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021 (arXiv 2003.00295), algorithm 2; Hsu,
Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019 (arXiv 1909.06335) for `momentum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedssl.types import Arrays

__all__ = ["ServerKind", "ServerState", "server_update"]

ServerKind = Literal["none", "momentum", "adagrad", "adam", "yogi"]


class ServerState(NamedTuple):
    """First and second moments by name, in float64; empty before the first update."""

    first: Arrays
    second: Arrays


def server_update(
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    state: ServerState,
    names: Set[str],
    *,
    kind: ServerKind,
    lr: float,
    beta1: float,
    beta2: float,
    tau: float,
) -> tuple[Arrays, ServerState]:
    """Return the next weights and moments.

    With `D = average - weights`: momentum takes `m = beta1 m + D` and `w + lr m`; the adaptive
    ones take `m = beta1 m + (1 - beta1) D` and `w + lr m / (sqrt(v) + tau)`, where v starts at
    tau^2 and becomes `v + D^2` (adagrad), `beta2 v + (1 - beta2) D^2` (adam), or
    `v - (1 - beta2) D^2 sign(v - D^2)` (yogi). There is no bias correction.

    Args:
        weights: before the round.
        average: of the sites' weights; the same names.
        state: what the last call returned.
        names: entries to optimize; all others, such as running statistics, take the average.
        kind: the rule; `none` takes the average.
        lr: server learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment; adam and yogi.
        tau: degree of adaptivity, above 0.
    """
    if kind == "none":
        return dict(average), state
    merged, first, second = dict(average), {}, {}
    for name in sorted(names & set(average)):
        old = weights[name].double()
        change = average[name].double() - old
        m = beta1 * state.first.get(name, torch.zeros_like(change))
        m = m + (change if kind == "momentum" else (1 - beta1) * change)
        first[name] = step = m
        if kind != "momentum":
            v = state.second.get(name, torch.full_like(change, tau**2))
            second[name] = _second_moment(kind, v, change.square(), beta2)
            step = m / (second[name].sqrt() + tau)
        merged[name] = (old + lr * step).to(average[name].dtype)
    return merged, ServerState(first, second)


def _second_moment(kind: ServerKind, v: Tensor, square: Tensor, beta2: float) -> Tensor:
    if kind == "adagrad":
        return v + square
    if kind == "adam":
        return beta2 * v + (1 - beta2) * square
    return v - (1 - beta2) * square * torch.sign(v - square)
