"""Conversions between logits, foreground maps and label maps, for both channel encodings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fedssl.types import Output

__all__ = [
    "RepairedMask",
    "decode",
    "foreground_probabilities",
    "foreground_targets",
    "label_from_foreground",
    "repair_nesting",
]


class RepairedMask(NamedTuple):
    """A properly nested mask and where it differs from what was given."""

    mask: Shaped[Tensor, "B F *S"]
    changed: Bool[Tensor, "B F *S"]


def foreground_probabilities(
    logits: Float[Tensor, "B O *S"], output: Output, temperature: float = 1.0
) -> Float[Tensor, "B F *S"]:
    """Return the probability of each foreground class.

    Args:
        logits: K channels (exclusive) or F channels (nested).
        output: channel encoding.
        temperature: divides the logits first; above 1 flattens, must be positive.

    Returns:
        Values in [0, 1]. Exclusive: the channels sum to at most 1. Nested: independent channels.
    """
    if temperature != 1.0:
        logits = logits / temperature
    if output == Output.EXCLUSIVE:
        return torch.softmax(logits, dim=1)[:, 1:]
    return torch.sigmoid(logits)


def decode(
    prob: Float[Tensor, "B F *S"], output: Output, threshold: float = 0.5
) -> Int[Tensor, " B *S"]:
    """Return the label map that foreground probabilities stand for.

    Args:
        prob: foreground probabilities in [0, 1].
        output: channel encoding.
        threshold: nested only; exclusive maps take the most probable class, background included
            (the first one on ties).

    Returns:
        int64 class indices. Nested: the largest f + 1 such that channels 0..f all exceed
        `threshold`, so that a class never appears outside the one that encloses it.
    """
    if output == Output.EXCLUSIVE:
        background = 1.0 - prob.sum(dim=1, keepdim=True)
        return torch.cat((background, prob), dim=1).argmax(dim=1)
    return _depth(prob > threshold)


def foreground_targets(
    label: Int[Tensor, " B *S"], num_foreground: int, output: Output
) -> Float[Tensor, "B F *S"]:
    """Return a label map as one binary float32 map per foreground class.

    Exclusive: channel f is 1 where the label is f + 1. Nested: where it is at least f + 1.
    """
    shape = (1, num_foreground) + (1,) * (label.ndim - 1)
    classes = torch.arange(1, num_foreground + 1, device=label.device).reshape(shape)
    pixels = label.unsqueeze(1)
    hit = pixels == classes if output == Output.EXCLUSIVE else pixels >= classes
    return hit.to(torch.float32)


def label_from_foreground(mask: Shaped[Tensor, "B F *S"], output: Output) -> Int[Tensor, " B *S"]:
    """Return the label map of binary foreground maps; inverts `foreground_targets`.

    Masks that no label map produces are read as follows. Exclusive: where several channels are
    set, the first one wins. Nested: counting stops at the first channel that is not set, which
    is the label of the repaired mask (see `repair_nesting`).
    """
    present = mask != 0
    if output == Output.NESTED:
        return _depth(present)
    first = present.to(torch.uint8).argmax(dim=1) + 1
    return torch.where(present.any(dim=1), first, torch.zeros_like(first))


def repair_nesting(mask: Shaped[Tensor, "B F *S"]) -> RepairedMask:
    """Remove every class where the class that encloses it is missing: y[f+1] <- y[f+1] * y[f].

    Args:
        mask: binary maps, from the outermost class inwards.

    Returns:
        The repaired mask, in the dtype given, and the pixels that the repair changed.
    """
    present = mask != 0
    nested = present.to(torch.int64).cumprod(dim=1).to(torch.bool)
    return RepairedMask(nested.to(mask.dtype), nested != present)


def _depth(inside: Bool[Tensor, "B F *S"]) -> Int[Tensor, " B *S"]:
    return inside.to(torch.int64).cumprod(dim=1).sum(dim=1)
