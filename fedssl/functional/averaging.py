"""Averages, distances and digests of named weights.

Sums run in float64 in the order given and are cast once, so that the result does not depend on
the engine that collected the uploads. Integer and bool tensors are counters, never averaged.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedssl.types import Arrays

__all__ = ["all_finite", "blend", "cpu_copy", "distance", "weighted_average", "weights_sha256"]


def weighted_average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> Arrays:
    """Return `sum_i w_i x_i / sum_i w_i` of named tensors.

    A state with weight 0 is never read, so a NaN in it does not leak. If one state alone has
    weight, it is returned bit for bit.

    Args:
        states: same names, shapes and dtypes everywhere; summed in this order.
        weights: one finite number >= 0 per state; need not sum to 1.

    Returns:
        New tensors in the dtypes given. Integer and bool tensors come from the first state with
        a positive weight.

    Raises:
        ValueError: weights that are negative, not finite or all zero; names, shapes or dtypes
            that differ.
    """
    _check_weights(len(states), weights)
    for i, state in enumerate(states[1:], start=1):
        _check_alike(states[0], state, f"state {i} and state 0")
    used = [(s, float(w)) for s, w in zip(states, weights, strict=True) if w > 0]
    first = used[0][0]
    if len(used) == 1:
        return cpu_copy(first)
    total = math.fsum(w for _, w in used)
    return {
        name: _mean([(s[name], w / total) for s, w in used])
        if torch.is_floating_point(tensor)
        else tensor.clone()
        for name, tensor in first.items()
    }


def blend(
    labeled: Mapping[str, Tensor], unlabeled: Mapping[str, Tensor] | None, mu: float
) -> Arrays:
    """Return `mu * labeled + (1 - mu) * unlabeled`; integers come from `labeled`.

    With `mu == 1`, or without an unlabeled average, the result is `labeled` bit for bit and
    `unlabeled` is never read.

    Args:
        labeled: average of the labeled group (xi).
        unlabeled: average of the unlabeled group (psi), same names, shapes and dtypes.
        mu: in [0, 1].

    Raises:
        ValueError: `mu` outside [0, 1]; names, shapes or dtypes that differ.
    """
    if not 0.0 <= mu <= 1.0:
        raise ValueError(f"mu must be in [0, 1], got {mu}.")
    if unlabeled is None or mu == 1.0:
        return cpu_copy(labeled)
    _check_alike(labeled, unlabeled, "the unlabeled and the labeled average")
    return {
        name: _mean([(xi, mu), (unlabeled[name], 1.0 - mu)])
        if torch.is_floating_point(xi)
        else xi.clone()
        for name, xi in labeled.items()
    }


def cpu_copy(state: Mapping[str, Tensor]) -> Arrays:
    """Return detached copies on the CPU that share no memory with `state`."""
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


def all_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether no float tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(t).all()) for t in state.values() if torch.is_floating_point(t))


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the L2 distance over all float tensors, in float64.

    Raises:
        ValueError: names, shapes or dtypes differ.
    """
    _check_alike(a, b, "the second and the first state")
    squares = [
        (x.detach().double() - b[name].detach().double()).square().sum().item()
        for name, x in a.items()
        if torch.is_floating_point(x)
    ]
    return math.sqrt(math.fsum(squares))


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the hex digest that says whether two runs ended with the same weights.

    Over the entries in sorted name order: name (UTF-8), dtype (`float32`), shape (`(16, 1, 3, 3)`,
    as Python prints a tuple), and the contiguous little-endian bytes.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        digest.update(name.encode())
        digest.update(str(tensor.dtype).removeprefix("torch.").encode())
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(_little_endian(tensor))
    return digest.hexdigest()


def _mean(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = torch.zeros_like(parts[0][0], dtype=torch.float64, requires_grad=False)
    for tensor, weight in parts:
        total += weight * tensor.detach().double()
    return total.to(parts[0][0].dtype)


def _little_endian(tensor: Tensor) -> bytes:
    # A byte view, because numpy has no bfloat16.
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, tensor.element_size()).flip(1)
    return raw.numpy().tobytes()


def _check_weights(count: int, weights: Sequence[float]) -> None:
    if count != len(weights):
        raise ValueError(f"Expected one weight per state, got {len(weights)} for {count} states.")
    if any(not math.isfinite(w) or w < 0 for w in weights):
        raise ValueError(f"Weights must be finite and >= 0, got {list(weights)}.")
    if not sum(weights) > 0:
        raise ValueError(f"At least one weight must be positive, got {list(weights)}.")


def _check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor], which: str) -> None:
    if a.keys() != b.keys():
        names = sorted(a.keys() ^ b.keys())[:5]
        raise ValueError(f"Names differ between {which}, e.g. {names}.")
    for name, x in a.items():
        if x.shape != b[name].shape or x.dtype != b[name].dtype:
            raise ValueError(
                f"{name!r} differs between {which}: {b[name].dtype} {tuple(b[name].shape)} "
                f"and {x.dtype} {tuple(x.shape)}."
            )
