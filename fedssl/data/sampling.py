"""Which samples come next, and how a sample is cut out of its case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["SamplePool", "center_near", "crop_or_pad", "cut_start", "take_slice"]


class SamplePool:
    """Samples in shuffled order; every one is drawn once before any is drawn again.

    A draw of more samples than there are is drawn with replacement.

    Args:
        samples: [N, 2] int64 rows (case, slice).
        rng: source of all randomness.
    """

    def __init__(self, samples: np.ndarray, rng: np.random.Generator) -> None:
        self._samples = samples
        self._rng = rng
        self._queue = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._samples)

    def draw(self, count: int) -> np.ndarray:
        """Return [count, 2] rows."""
        total = len(self._samples)
        if count > total:
            return self._samples[self._rng.integers(total, size=count)]
        if len(self._queue) < count:
            self._queue = np.concatenate([self._queue, self._rng.permutation(total)])
        chosen, self._queue = self._queue[:count], self._queue[count:]
        return self._samples[chosen]


def take_slice(volume: np.ndarray, position: int, mode: str) -> np.ndarray:
    """Return the network's view of one slice of [C, D, H, W].

    Mode `slices` gives [C, H, W]. Mode `2.5d` gives the slice before, the slice and the slice after
    as [3C, H, W]; at the volume's ends the slice itself stands in for what is missing.
    """
    if mode != "2.5d":
        return volume[:, position]
    last = volume.shape[1] - 1
    neighbours = [volume[:, min(max(position + step, 0), last)] for step in (-1, 0, 1)]
    return np.concatenate(neighbours)


def cut_start(
    shape: Sequence[int],
    size: Sequence[int],
    rng: np.random.Generator,
    center: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return where a crop of `size` begins in `shape`; 0 on axes that are too short.

    Args:
        shape: of the image.
        size: of the crop.
        rng: source of randomness.
        center: voxel that the crop should be centred on, or None for anywhere.
    """
    room = [max(n - s, 0) for n, s in zip(shape, size, strict=True)]
    if center is None:
        return tuple(int(rng.integers(r + 1)) for r in room)
    return tuple(min(max(c - s // 2, 0), r) for c, s, r in zip(center, size, room, strict=True))


def center_near(
    label: np.ndarray, counts: np.ndarray, size: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Return a random foreground voxel, moved by up to a quarter of the crop on every axis.

    The voxel itself stays inside a crop of `size` around the result.

    Args:
        label: [*S].
        counts: foreground voxels per index of the first axis; not all 0.
        size: of the crop.
        rng: source of randomness.
    """
    ends = np.cumsum(counts)
    rank = int(rng.integers(ends[-1]))
    first = int(np.searchsorted(ends, rank, side="right"))
    within = rank - int(ends[first] - counts[first])
    plane = label[first]
    rest = np.unravel_index(np.flatnonzero(plane)[within], plane.shape)
    voxel = (first, *(int(i) for i in rest))
    return tuple(
        v + int(rng.integers(-(s // 4), s // 4 + 1)) for v, s in zip(voxel, size, strict=True)
    )


def crop_or_pad(
    array: np.ndarray, start: Sequence[int], size: Sequence[int], *, edge: bool
) -> np.ndarray:
    """Cut `size` out of the last axes of an array; what lies beyond its end is padded.

    Args:
        array: [..., *S].
        start: first index per axis.
        size: length per axis of the result.
        edge: repeat the last value (images) instead of 0 (masks and stored maps). Mirrored anatomy
            would contradict a mask that is 0 there.
    """
    lead = array.ndim - len(size)
    window = tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))
    cut: np.ndarray = array[(slice(None),) * lead + window]
    missing = [s - have for s, have in zip(size, cut.shape[lead:], strict=True)]
    if not any(missing):
        return cut
    pads = [(0, 0)] * lead + [(0, m) for m in missing]
    return np.pad(cut, pads, mode="edge") if edge else np.pad(cut, pads)
