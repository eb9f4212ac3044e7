"""Thresholds that give pseudo-labels a share of foreground, from counts that add up over images.

Ours, after the distribution alignment of Berthelot et al., "ReMixMatch", ICLR 2020: where a network
misses or adds foreground at other cameras, the share of it under true masks corrects it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["foreground_counts", "probability_counts", "share_threshold"]

_BINS = 1000


def foreground_counts(target: Shaped[Tensor, " F *S"]) -> Float[Tensor, " F+1"]:
    """Return the foreground pixels per class of a binary mask, and last the number of pixels."""
    foreground = (target != 0).flatten(1)
    total = torch.tensor([foreground.shape[1]], dtype=torch.float64)
    return torch.cat([foreground.sum(1).double().cpu(), total])


def probability_counts(prob: Float[Tensor, " F *S"]) -> Float[Tensor, "F 1000"]:
    """Return a histogram of probabilities per class, in thousandths; it adds up over images."""
    bins = (prob.float() * _BINS).long().clamp(0, _BINS - 1).flatten(1).cpu()
    return torch.stack([torch.bincount(row, minlength=_BINS) for row in bins]).double()


def share_threshold(
    counts: Float[Tensor, "F 1000"], share: Float[Tensor, " F"]
) -> Float[Tensor, " F"]:
    """Return per class the lowest threshold that at most a share of the pixels exceeds.

    Args:
        counts: of `probability_counts`, over all images of a site.
        share: foreground pixels among all pixels, in [0, 1].

    Returns:
        Thresholds in thousandths, within [0.1, 0.9].
    """
    above = counts.flip(1).cumsum(1).flip(1) / counts.sum(1, keepdim=True).clamp_min(1)
    low = (above > share[:, None].to(above)).sum(1)  # `above` falls; bins from here on fit
    return (low.double() / _BINS).clamp(0.1, 0.9)
