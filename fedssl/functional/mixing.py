"""Mixing two batches: convex combination, and boxes cut from one and pasted into the other."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

__all__ = ["cutmix_boxes", "fixed_box", "interpolate", "paste"]


def interpolate(
    a: Float[Tensor, "B C *S"], b: Float[Tensor, "B C *S"], share: Float[Tensor, " B"]
) -> Float[Tensor, "B C *S"]:
    """Return `(1 - m) a + m b` with one share m in [0, 1] per sample."""
    m = share.to(a).reshape(-1, *(1,) * (a.ndim - 1))
    return (1 - m) * a + m * b


def paste(
    inside: Bool[Tensor, "B 1 *S"], source: Shaped[Tensor, "B C *S"], into: Shaped[Tensor, "B C *S"]
) -> Shaped[Tensor, "B C *S"]:
    """Return `into` with the pixels of `source` where `inside` is True."""
    return torch.where(inside, source, into)


def fixed_box(
    size: tuple[int, ...], fraction: float, generator: torch.Generator
) -> Bool[Tensor, "1 1 *S"]:
    """Return one box, True inside, whose sides are `fraction` of the image's; anywhere in it.

    Args:
        size: *S.
        fraction: in (0, 1].
        generator: on the CPU.
    """
    sides = [max(1, int(fraction * side)) for side in size]
    starts = [
        int(torch.randint(0, side - length + 1, (1,), generator=generator))
        for side, length in zip(size, sides, strict=True)
    ]
    return _box(size, starts, sides)[None, None]


def cutmix_boxes(
    batch: int,
    size: tuple[int, ...],
    generator: torch.Generator,
    *,
    probability: float = 0.5,
    smallest: float = 0.02,
    largest: float = 0.4,
    aspect: float = 3.0,
) -> Bool[Tensor, "B 1 *S"]:
    """Return one random box per sample, True inside; empty with probability `1 - probability`.

    Args:
        batch: B.
        size: *S.
        generator: on the CPU.
        probability: that a sample has a box.
        smallest: share of the image's area or volume.
        largest: the same.
        aspect: a side deviates from the proportions of the image by at most this factor, before
            the box is cut at the image's size.
    """
    dims = len(size)
    wanted = torch.rand(batch, generator=generator) < probability
    share = smallest + (largest - smallest) * torch.rand(batch, generator=generator)
    tilt = (2 * torch.rand(batch, dims, generator=generator) - 1) * math.log(aspect) / 2
    place = torch.rand(batch, dims, generator=generator)
    boxes = torch.zeros((batch, 1, *size), dtype=torch.bool)
    for b in range(batch):
        if not wanted[b]:
            continue
        relative = (share[b].log() / dims + tilt[b] - tilt[b].mean()).exp().tolist()
        sides = [max(1, min(s, round(r * s))) for r, s in zip(relative, size, strict=True)]
        free = [s - length for s, length in zip(size, sides, strict=True)]
        starts = [int(p * (f + 1)) for p, f in zip(place[b].tolist(), free, strict=True)]
        boxes[b, 0] = _box(size, starts, sides)
    return boxes


def _box(size: tuple[int, ...], starts: list[int], sides: list[int]) -> Bool[Tensor, " *S"]:
    box = torch.zeros(size, dtype=torch.bool)
    box[tuple(slice(a, a + n) for a, n in zip(starts, sides, strict=True))] = True
    return box
