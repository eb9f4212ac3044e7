"""Schedules: pure functions of the run's own step or round, never of a round's first step."""

from __future__ import annotations

import math

__all__ = ["linear_ramp", "poly", "sigmoid_ramp"]


def sigmoid_ramp(step: float, length: float) -> float:
    """Return `exp(-5 (1 - min(step, length) / length)^2)`, from exp(-5) at step 0 to 1.

    Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.

    Args:
        step: steps or rounds since the ramp began; below 0 counts as 0.
        length: duration in the same unit; 0 or less means no ramp, i.e. 1.
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - _fraction(step, length)) ** 2)


def linear_ramp(step: float, start: float, length: float, begin: float, end: float) -> float:
    """Return `begin` up to `start`, `end` from `start + length` on, and the line in between.

    A length of 0 or less is a jump at `start`.
    """
    if length <= 0:
        return end if step >= start else begin
    fraction = _fraction(step - start, length)
    return begin * (1.0 - fraction) + end * fraction


def poly(step: float, total: float, power: float = 0.9) -> float:
    """Return `(1 - min(step, total) / total)^power`, from 1 at step 0 to 0 at `total`.

    Raises:
        ValueError: `total` is not positive.
    """
    if total <= 0:
        raise ValueError(f"total must be positive, got {total}.")
    return float((1.0 - _fraction(step, total)) ** power)


def _fraction(step: float, length: float) -> float:
    return min(max(step, 0.0), length) / length
