"""Histograms on grids that every site shares, so that those of several sites add up.

A grid is logarithmic and fixed: eight bins per doubling, whatever the data. No site has to tell its
smallest or largest value to agree on bins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

import numpy as np

__all__ = [
    "LARGEST_BIN",
    "SMALL",
    "add_counts",
    "bin_edges",
    "intensity_bins",
    "length_bin",
    "length_of",
    "quantile",
    "shared_values",
]

Counts = dict[int, int]
"""Bin -> how many."""

SMALL = 5
"""Fewer cases than this are few enough to point at one of them."""

_PER_DOUBLING = 8
_SMALLEST = -10
"""Intensities below 2 ** -10 in magnitude share the bin 0."""

LARGEST_BIN = _PER_DOUBLING * (128 - _SMALLEST) + 1
"""No float32 is larger."""


def length_bin(value: float) -> int:
    """Return the bin of a positive size, spacing or extent; its centre is 2 ** (bin / 8)."""
    return round(_PER_DOUBLING * float(np.log2(value)))


def length_of(index: int) -> float:
    """Return the centre of a length's bin."""
    return float(2.0 ** (index / _PER_DOUBLING))


def intensity_bins(values: np.ndarray) -> Counts:
    """Return the histogram of intensities: bin 0 around zero, +-k with magnitude above 2 ** -10.

    Args:
        values: any shape, finite.
    """
    flat = np.ravel(values).astype(np.float32)
    magnitude = np.maximum(np.abs(flat), np.float32(2.0**_SMALLEST))
    level = np.floor(_PER_DOUBLING * (np.log2(magnitude) - _SMALLEST)).astype(np.int32) + 1
    level[np.abs(flat) < 2.0**_SMALLEST] = 0
    counts = np.bincount(np.where(flat < 0, -level, level) + LARGEST_BIN)
    return {int(b) - LARGEST_BIN: int(counts[b]) for b in np.flatnonzero(counts)}


def bin_edges(index: int) -> tuple[float, float]:
    """Return the lower and upper edge of an intensity's bin."""
    if index == 0:
        return -(2.0**_SMALLEST), 2.0**_SMALLEST
    low, high = (2.0 ** (_SMALLEST + (abs(index) - i) / _PER_DOUBLING) for i in (1, 0))
    return (low, high) if index > 0 else (-high, -low)


def quantile(counts: Mapping[int, int], share: float) -> float:
    """Return the intensity below which a share of the histogram lies, linear within a bin.

    Args:
        counts: of `intensity_bins`, not empty.
        share: in [0, 1].
    """
    bins = sorted(counts)
    ends = list(accumulate(counts[b] for b in bins))
    wanted = share * ends[-1]
    place = min(bisect_left(ends, wanted), len(bins) - 1)
    low, high = bin_edges(bins[place])
    inside = (wanted - (ends[place] - counts[bins[place]])) / counts[bins[place]]
    return low + (high - low) * min(max(inside, 0.0), 1.0)


def add_counts(parts: Iterable[Mapping[int, int]]) -> Counts:
    """Return the sum of histograms, in the order of the bins."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


def shared_values(values: Iterable[float]) -> dict[str, int]:
    """Return the values, rounded to three digits, that at least `SMALL` cases share."""
    counted = Counter(f"{value:.3g}" for value in values)
    kept = {float(text): n for text, n in counted.items() if n >= SMALL}
    return {f"{value:g}": kept[value] for value in sorted(kept)}
