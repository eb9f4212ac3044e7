"""Which classes a network takes for which: relation matrices between classes.

Liu, Yang, Dou, Heng, "Federated Semi-supervised Medical Image Classification via Inter-client
Relation Matching", MICCAI 2021. Row c of a matrix is the softened prediction of the mean logit of
class c. For segmentation (ours) the mean runs over the pixels of the class in one image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Relations", "class_relations", "mean_relation", "relation_distance"]


class Relations(NamedTuple):
    """One relation matrix per image; rows of classes that the image lacks are not `present`."""

    rows: Float[Tensor, "B K K"]
    present: Bool[Tensor, "B K"]


def class_relations(
    logits: Float[Tensor, "B K *S"],
    label: Int[Tensor, " B *S"],
    keep: Bool[Tensor, " B *S"] | None = None,
    temperature: float = 2.0,
) -> Relations:
    """Return `softmax(mean logit over the pixels of class c / temperature)` for each c.

    Args:
        logits: softmax channels; gradient flows into them.
        label: class indices in [0, K).
        keep: pixels that count; None: all.
        temperature: above 0.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None]
    member = label.flatten(1)[:, None] == classes
    if keep is not None:
        member = member & keep.flatten(1)[:, None]
    weight = member.to(logits.dtype)
    count = weight.sum(2)
    with torch.autocast(logits.device.type, enabled=False):  # sums over pixels need all digits
        total = torch.einsum("bcn,bkn->bck", weight, logits.flatten(2))
    mean = total / count.clamp_min(1)[:, :, None]
    return Relations(torch.softmax(mean / temperature, dim=2), count > 0)


def relation_distance(
    relations: Relations, reference: Float[Tensor, "K K"], valid: Bool[Tensor, " K"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return per image the mean over rows of `(KL(P || Q) + KL(Q || P)) / 2`, and if it has one.

    Args:
        relations: P of the images.
        reference: Q; no gradient.
        valid: classes that Q knows.

    Returns:
        Distances (0 for an image without a common class) and 1 or 0 for whether it counts.
    """
    p, q = relations.rows, reference.detach().to(relations.rows)[None]
    log_p, log_q = p.clamp_min(1e-8).log(), q.clamp_min(1e-8).log()
    symmetric = ((p - q) * (log_p - log_q)).sum(2) / 2
    use = (relations.present & valid.to(p.device)).to(p.dtype)
    rows = use.sum(1)
    return (symmetric * use).sum(1) / rows.clamp_min(1), (rows > 0).to(p.dtype)


def mean_relation(
    matrices: Float[Tensor, "N K K"], valid: Bool[Tensor, "N K"]
) -> tuple[Float[Tensor, "K K"], Bool[Tensor, " K"]]:
    """Return the mean over those of N matrices that know a row, and the rows that any knows.

    A row that none knows is uniform.
    """
    weight = valid.to(matrices.dtype)[:, :, None]
    count = weight.sum(0)
    mean = (matrices * weight).sum(0) / count.clamp_min(1)
    uniform = nnf.softmax(torch.zeros_like(mean), dim=1)
    known = count[:, 0] > 0
    return torch.where(known[:, None], mean, uniform), known
