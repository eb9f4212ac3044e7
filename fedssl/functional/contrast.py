"""Contrast between an image's foreground and a bank of class prototypes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["MaskedMeans", "foreground_contrast", "masked_means", "prototype_affinity"]

SHORTEST = 1e-6


class MaskedMeans(NamedTuple):
    """Mean features inside masks; zeros where a mask is empty."""

    mean: Float[Tensor, "B D"]
    present: Bool[Tensor, " B"]


def masked_means(features: Float[Tensor, "B D *S"], mask: Bool[Tensor, " B *S"]) -> MaskedMeans:
    """Return each image's mean feature inside its mask; gradient flows into the features."""
    features = features if features.dtype == torch.float64 else features.float()
    weight = mask.flatten(1).to(features.dtype)
    count = weight.sum(1)
    with torch.autocast(features.device.type, enabled=False):  # sums over pixels need all digits
        total = torch.einsum("bn,bdn->bd", weight, features.flatten(2))
    return MaskedMeans(total / count.clamp_min(1)[:, None], count > 0)


def foreground_contrast(
    query: MaskedMeans, bank: Float[Tensor, "R 2 D"], temperature: float = 0.1
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return per image the InfoNCE loss of its foreground, and whether it has any.

    With cosines to the foreground prototypes k (positive) and background prototypes m (negative),
    the loss is the mean over k of `-log(e^(q.k/T) / (e^(q.k/T) + sum_m e^(q.m/T)))`. Rows of the
    bank that are zero do not exist; a query without length has no direction and does not count.

    Args:
        query: mean foreground features.
        bank: prototypes, foreground first; no gradient.
        temperature: T, above 0.
    """
    q = nnf.normalize(query.mean, dim=1)
    keys = bank.detach().to(q)
    known = keys.abs().amax(2) > 0
    keys = nnf.normalize(keys, dim=2)
    with torch.autocast(q.device.type, enabled=False):
        positive = q @ keys[known[:, 0], 0].T / temperature
        others = q @ keys[known[:, 1], 1].T / temperature
    negative = torch.logsumexp(others, dim=1, keepdim=True)
    loss = nnf.softplus(negative - positive)
    # Near zero the slope of a direction is that of 1 / length: 1e12 where `normalize` gives up.
    directed = query.mean.detach().norm(dim=1) > SHORTEST
    counts = query.present & directed & bool(known[:, 0].any())
    mean = loss.sum(1) / max(positive.shape[1], 1)
    return torch.where(counts, mean, torch.zeros_like(mean)), counts.to(q.dtype)


def prototype_affinity(own: Float[Tensor, " D"], others: Float[Tensor, "N D"]) -> list[float]:
    """Return `exp(cosine)` to each of N prototypes, normalised to sum 1; equal if one is zero."""
    cosine = nnf.cosine_similarity(own[None].double(), others.double(), dim=1)
    weight = cosine.exp()
    return [float(w) for w in weight / weight.sum()]
