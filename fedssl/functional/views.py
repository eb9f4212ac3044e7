"""Scaled and flipped views of a batch, and the way back: one image labeled at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

__all__ = ["View", "look", "undo", "views_of"]

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Of the last two axes, in the order in which views take them."""


@dataclass(frozen=True, slots=True)
class View:
    """How an image is looked at.

    Args:
        scale: of every axis; above 1 enlarges.
        flip: mirrored axes, counted from the end.
    """

    scale: float = 1.0
    flip: tuple[int, ...] = ()


def views_of(scales: Sequence[float], *, flips: bool) -> list[View]:
    """Return one view per scale; with flips at least four, each mirrored in another way.

    Args:
        scales: e.g. (0.75, 1.0, 1.25); must not be empty.
        flips: whether the k-th view is mirrored (not at all, left-right, up-down, both ways).
    """
    if not flips:
        return [View(scale) for scale in scales]
    count = max(len(scales), len(_FLIPS))
    return [View(scales[k % len(scales)], _FLIPS[k % len(_FLIPS)]) for k in range(count)]


def look(
    image: Float[Tensor, "B C *S"], view: View, *, multiple: int = 1
) -> Float[Tensor, "B C *s"]:
    """Return the view of a batch, with sides that are the nearest multiples, at least one of them.

    Args:
        image: batch.
        view: what to do to it; `View()` returns the batch itself.
        multiple: of which all new sides are, for a network that needs it.
    """
    if view.scale != 1:
        sides = [max(1, round(side * view.scale / multiple)) * multiple for side in image.shape[2:]]
        image = _resized(image, sides)
    return image.flip(view.flip) if view.flip else image


def undo(maps: Float[Tensor, "B M *s"], view: View, size: Sequence[int]) -> Float[Tensor, "B M *S"]:
    """Return maps of a view on the grid of what was looked at.

    Args:
        maps: what a network made of the view.
        view: the view.
        size: *S, the sides to return.
    """
    maps = maps.flip(view.flip) if view.flip else maps
    return maps if tuple(maps.shape[2:]) == tuple(size) else _resized(maps, size)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return nnf.interpolate(maps, tuple(size), mode=mode, align_corners=False)
