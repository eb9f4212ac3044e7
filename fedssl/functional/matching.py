"""Pseudo-labels from labeled reference features: nearest label, entropy of class distances.

After Seibold, Reiss, Kleesiek, Stiefelhagen, "Reference-guided pseudo-label generation for medical
semantic segmentation", AAAI 2022. The figure and abstract fix the structure (label of the nearest
reference; entropy over the closest distance to each class within the top k); the cosine distance,
k, and the temperature are our completion, since no code or formula was published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Match", "match", "soft_labels"]

_BLOCK = 256
"""Queries per matrix product."""


@dataclass(frozen=True, slots=True)
class Match:
    """Labels transferred from a reference bank.

    Args:
        label: class of the nearest reference.
        weight: confidence in [0, 1]; 1 where the top k hold one class only, 0 where a feature is
            not finite.
    """

    label: Int[Tensor, " N"]
    weight: Float[Tensor, " N"]


@torch.no_grad()
def match(
    queries: Float[Tensor, "N D"],
    bank: Float[Tensor, "M D"],
    labels: Int[Tensor, " M"],
    num_classes: int,
    *,
    k: int = 16,
    tau: float = 0.1,
    chunk: int = 8192,
    bias: Float[Tensor, " M"] | None = None,
) -> Match:
    """Return the label of each query's nearest reference, and how sure it is.

    Both sides are scaled to unit length here; the distance is `1 - cosine`. Among the k nearest
    references, `d_c` is the distance to the closest one of class c, for the classes P that occur.
    With `p = softmax_{c in P}(-d_c / tau)` and `H = -sum p ln p`, the weight is
    `1 - H / ln(num_classes)`. The nearest reference is always among the k, so its class is
    `argmin_c d_c`; equal distances go to the lower class, and references as near as the k-th one
    all count, whatever the order of the bank.

    Args:
        queries: features of any length, on the bank's device.
        bank: reference features.
        labels: class of each reference, in [0, num_classes).
        num_classes: classes including background, at least 2.
        k: neighbours; the whole bank if it is smaller.
        tau: temperature of the class distances, > 0.
        chunk: queries at a time, rounded up to a multiple of 256; bounds memory, changes nothing
            else.
        bias: added to each reference's similarity; `tau * ln(g)` multiplies its `exp(-d / tau)`
            by g, e.g. by how much its site is to be trusted.

    Raises:
        ValueError: an empty bank, shapes that do not fit, or a value out of its range.
    """
    _check(queries, bank, labels, num_classes)
    _check_options(k=k, tau=tau, chunk=chunk)
    with torch.autocast(queries.device.type, enabled=False):
        parts = [
            _class_distances(similarity, labels.long(), num_classes, k)
            for similarity in _similarities(queries, bank, chunk, bias)
        ]
        distance = torch.cat(parts)
        prob = torch.softmax(-distance / tau, dim=1)
        weight = 1.0 - torch.special.entr(prob).sum(1) / math.log(num_classes)
    return Match(label=distance.argmin(1), weight=weight.nan_to_num(0.0).clamp(0.0, 1.0))


@torch.no_grad()
def soft_labels(
    queries: Float[Tensor, "N D"],
    bank: Float[Tensor, "M D"],
    labels: Int[Tensor, " M"],
    num_classes: int,
    *,
    k: int = 16,
    temperature: float = 0.02,
    chunk: int = 8192,
    bias: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, "N K"]:
    """Return a class distribution per query: attention over its k nearest references.

    `sum_m softmax_m(s_m / temperature) onehot(y_m)` with cosine similarities s, as in dense
    nearest-neighbour retrieval (Balazevic et al., NeurIPS 2023).

    Args:
        queries: as for `match`.
        bank: as for `match`.
        labels: as for `match`.
        num_classes: as for `match`.
        k: as for `match`.
        temperature: of the attention, > 0.
        chunk: as for `match`.
        bias: as for `match`.

    Raises:
        ValueError: as for `match`.
    """
    _check(queries, bank, labels, num_classes)
    _check_options(k=k, tau=temperature, chunk=chunk)
    parts = []
    with torch.autocast(queries.device.type, enabled=False):
        for similarity in _similarities(queries, bank, chunk, bias):
            values, classes = _nearest(similarity, labels.long(), k)
            attention = torch.softmax(values / temperature, dim=1)
            empty = attention.new_zeros((len(attention), num_classes))
            parts.append(empty.scatter_add(1, classes, attention))
    return torch.cat(parts)


def _similarities(
    queries: Float[Tensor, "N D"],
    bank: Float[Tensor, "M D"],
    chunk: int,
    bias: Float[Tensor, " M"] | None,
) -> Iterator[Float[Tensor, "n M"]]:
    # The finer of both dtypes: a bank travels in half precision.
    dtype = torch.promote_types(torch.float32, torch.promote_types(queries.dtype, bank.dtype))
    reference = _unit(bank.to(dtype))
    # A matrix product may round equal columns differently, and their tie would be lost.
    rows, place = reference.unique(dim=0, return_inverse=True)
    repeated = len(rows) < len(reference)
    columns = (rows if repeated else reference).T
    for part in queries.split(-(-chunk // _BLOCK) * _BLOCK):
        similarity = _product(_unit(part.to(dtype)), columns)
        similarity = similarity[:, place] if repeated else similarity
        yield similarity if bias is None else similarity + bias.to(similarity.dtype)


def _product(queries: Float[Tensor, "n D"], columns: Float[Tensor, "D m"]) -> Float[Tensor, "n m"]:
    """Return a matrix product whose rows do not depend on how many there are."""
    padded = nnf.pad(queries, (0, 0, 0, -len(queries) % _BLOCK))
    # A product rounds differently with the number of its rows; all of these have the same.
    blocks = [block @ columns for block in padded.split(_BLOCK)]
    return torch.cat(blocks)[: len(queries)]


def _unit(rows: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Return rows of length 1, or 0; scaled by powers of 2 first, which rounds nothing."""
    exponent = torch.frexp(rows.abs().amax(1, keepdim=True)).exponent
    return nnf.normalize(torch.ldexp(rows, -exponent), dim=1)


def _class_distances(
    similarity: Float[Tensor, "n M"], labels: Int[Tensor, " M"], num_classes: int, k: int
) -> Float[Tensor, "n K"]:
    """Distance to the closest reference of each class within the top k; infinite if none is."""
    values, classes = _nearest(similarity, labels, k)
    empty = values.new_full((len(values), num_classes), math.inf)
    return empty.scatter_reduce(1, classes, 1.0 - values, "amin")


def _nearest(
    similarity: Float[Tensor, "n M"], labels: Int[Tensor, " M"], k: int
) -> tuple[Float[Tensor, "n m"], Int[Tensor, "n m"]]:
    """Similarities and classes of the k nearest, and of what is as near as the k-th of them.

    Rows that have fewer than m of these are filled up with similarity -inf.
    """
    near = similarity.topk(min(k, similarity.shape[1]), dim=1)
    beyond = similarity < near.values[:, -1:]
    if not bool(((~beyond).sum(1) > k).any()):
        return near.values, labels[near.indices]
    # Which of them came among the first k would depend on the order of the bank.
    return similarity.masked_fill(beyond, -math.inf), labels.expand_as(similarity)


def _check(queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int) -> None:
    if len(bank) == 0:
        raise ValueError("the reference bank is empty: no labeled site contributed a vector")
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        msg = (
            f"queries {tuple(queries.shape)} and bank {tuple(bank.shape)} must be [N, D] and "
            "[M, D] with features of one layer"
        )
        raise ValueError(msg)
    if labels.shape != bank.shape[:1]:
        msg = f"{len(bank)} bank vectors but labels of shape {tuple(labels.shape)}"
        raise ValueError(msg)
    low, high = int(labels.min()), int(labels.max())
    if num_classes < 2 or low < 0 or high >= num_classes:
        msg = f"bank labels {low}..{high} do not fit {num_classes} classes (at least 2)"
        raise ValueError(msg)


def _check_options(k: int, tau: float, chunk: int) -> None:
    if k < 1 or tau <= 0 or chunk < 1:
        msg = f"k={k}, tau={tau}, chunk={chunk}: all must be positive"
        raise ValueError(msg)
