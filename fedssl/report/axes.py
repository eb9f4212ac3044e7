"""Scales, round tick values and the labels of charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedssl.report.html import Markup, tag

__all__ = ["Axis", "label", "number", "round_range", "shortened", "ticks_between", "value_range"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values in [low, high] to positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the position of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)


def round_range(rounds: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis of rounds, which starts at the first one or at 1."""
    low, high = min(1.0, *rounds), max(rounds)
    return (low - 1, high + 1) if low == high else (low, high)


def value_range(
    values: Sequence[float], fixed: tuple[float, float] | None = None
) -> tuple[float, float, list[float]]:
    """Return both ends of an axis of values, and its ticks."""
    if fixed:
        return *fixed, ticks_between(*fixed, 6)
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest:
        low, high = low - (largest or 1.0) * 0.5, high + (largest or 1.0) * 0.5
    # A scale that starts at 0 is more honest, unless the values lie far from it.
    if 0 < low < 0.5 * high:
        low = 0.0
    ticks = ticks_between(low, high, 5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, ticks_between(low, high, 6)


def ticks_between(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers in [low, high], low < high; `whole` ones if asked."""
    rough = max((high - low) / max(1, count - 1), 1e-300)
    if whole:
        rough = max(1.0, rough)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(m * power for m in factors if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def label(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    """Return a text at a position; `anchor` is start, middle or end."""
    return tag("text", text, class_=kind, x=round(x, 1), y=round(y, 1), text_anchor=anchor)


def number(value: float) -> str:
    """Return a value with four significant digits."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


def shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."
