"""A site's labeled features, condensed to a bank of cluster centres that may leave the site.

Centres are averages of many pixels of several images, without positions: floors on both numbers
and caps on every image's share bound what one patient contributes. This is no formal privacy
guarantee; cluster membership itself depends on the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedssl.functional.kmeans import Clusters, spherical_kmeans

__all__ = [
    "IGNORE",
    "Bank",
    "grid_features",
    "grid_labels",
    "merge_banks",
    "noisy_bank",
    "reference_bank",
]

IGNORE = -1
"""Label of a grid cell that belongs to no class clearly enough."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Reference features, sorted by class.

    Args:
        vectors: unit vectors, float32.
        labels: class of each vector, int64.
        counts: pixels that each vector is the mean of, int64.
    """

    vectors: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    counts: Int[Tensor, " M"]


@torch.no_grad()
def reference_bank(
    features: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    image_index: Int[Tensor, " N"],
    num_classes: int,
    *,
    centroids: int = 64,
    background_centroids: int = 128,
    iterations: int = 10,
    min_pixels: int = 20,
    min_images: int = 2,
    cap_per_image_class: int = 64,
    cap_per_class: int = 20_000,
    generator: torch.Generator,
) -> Bank:
    """Condense pixel features to centres of one class each, by spherical k-means per class.

    A class with few pixels gets fewer centres, one per `2 * min_pixels` pixels, and falls back to
    a single one if all of them fail the floors; it is left out if that one fails too.

    Args:
        features: one row per pixel, of any length.
        labels: class of each pixel in [0, num_classes); others, e.g. `IGNORE`, are left out.
        image_index: image of each pixel.
        num_classes: classes including background (class 0).
        centroids: centres per foreground class at most.
        background_centroids: centres of the background at most; it is the more varied class.
        iterations: of k-means.
        min_pixels: centres of fewer pixels are dropped.
        min_images: centres whose pixels come from fewer images are dropped.
        cap_per_image_class: pixels that one image contributes to a class at most, drawn at random.
        cap_per_class: pixels per class at most, drawn at random.
        generator: CPU generator of all draws.

    Returns:
        At most `background_centroids + (num_classes - 1) * centroids` vectors; possibly none.
    """
    valid = ((labels >= 0) & (labels < num_classes)).nonzero()[:, 0]
    image = image_index.unique(return_inverse=True)[1]
    images = int(image.max()) + 1 if len(image) else 0
    kept = valid[_at_most((labels.long() * images + image)[valid], cap_per_image_class, generator)]
    kept = kept[_at_most(labels[kept], cap_per_class, generator)]
    banks = []
    for c in range(num_classes):
        own = kept[labels[kept] == c]
        most = background_centroids if c == 0 else centroids
        k = max(1, min(most, len(own) // (2 * max(min_pixels, 1))))
        floors = (max(min_pixels, 1), min_images)
        banks.append(_class_bank(features[own], image[own], c, k, iterations, floors, generator))
    return _concatenate(banks)


@torch.no_grad()
def merge_banks(banks: Sequence[Bank], k_max: int = 4096, *, iterations: int = 10) -> Bank:
    """Concatenate banks; cluster again, per class and weighted by counts, if they are too large.

    Nothing is random. Each class keeps its share of the vectors, and at least one.

    Args:
        banks: at least one, of one feature dimension; their order decides ties only.
        k_max: vectors of the result at most.
        iterations: of k-means.

    Raises:
        ValueError: no bank, feature dimensions differ, or `k_max` below the number of classes.
    """
    dimensions = {bank.vectors.shape[1] for bank in banks}
    if len(dimensions) != 1:
        raise ValueError(f"cannot merge banks of feature dimensions {sorted(dimensions)}")
    union = _concatenate(banks)
    if len(union.labels) <= k_max:
        return union
    present, sizes = union.labels.unique(return_counts=True)
    if k_max < len(present):
        raise ValueError(
            f"k_max={k_max} is less than one vector for each of {len(present)} classes"
        )
    merged = []
    for c, k in zip(present.tolist(), _shares(sizes.tolist(), k_max), strict=True):
        own = union.labels == c
        counts = union.counts[own]
        clusters = spherical_kmeans(
            union.vectors[own], k, iterations=iterations, weights=counts.float()
        )
        total = _sums(clusters.assignment, counts, len(clusters.centroids))
        merged.append(_bank(clusters, c, total, total > 0))
    return _concatenate(merged)


def noisy_bank(bank: Bank, sigma: float, generator: torch.Generator) -> Bank:
    """Add Gaussian noise to the vectors and scale them to unit length again.

    Args:
        bank: unit vectors.
        sigma: standard deviation per component (0.01 to 0.05 is usable); 0 returns `bank` as it is.
        generator: CPU generator.
    """
    if sigma == 0:
        return bank
    noise = torch.randn(bank.vectors.shape, generator=generator).to(bank.vectors)
    return Bank(nnf.normalize(bank.vectors + sigma * noise, dim=1), bank.labels, bank.counts)


def grid_features(features: Float[Tensor, "B D *S"], grid: int) -> Float[Tensor, "B D *s"]:
    """Average features over the cells of a grid; axes shorter than `grid` keep their size."""
    return _pool(features, grid)


def grid_labels(
    label: Int[Tensor, " B *S"], grid: int, num_classes: int, purity: float = 0.75
) -> Int[Tensor, " B *s"]:
    """Return the majority class of each grid cell, or `IGNORE` where there is none.

    Args:
        label: class indices; values outside [0, num_classes) mark pixels to ignore.
        grid: cells per axis; axes shorter than that keep their size.
        num_classes: classes including background.
        purity: a cell whose majority class covers less than this share is `IGNORE`, and so is a
            cell that contains a pixel to ignore.
    """
    classes = torch.arange(num_classes, device=label.device).reshape(-1, *[1] * (label.ndim - 1))
    member = (label[:, None] == classes).float()
    share = _pool(member, grid)
    # Rounding in the mean must not turn a full cell into an impure one.
    whole = share.sum(1) > 1.0 - 1e-5
    most = share.max(1)
    pure = most.values >= purity - 1e-5
    return torch.where(whole & pure, most.indices, torch.full_like(most.indices, IGNORE))


def _class_bank(
    features: Float[Tensor, "N D"],
    image: Int[Tensor, " N"],
    label: int,
    k: int,
    iterations: int,
    floors: tuple[int, int],
    generator: torch.Generator,
) -> Bank:
    if len(features) < floors[0]:
        empty = torch.zeros(0, dtype=torch.long, device=features.device)
        return Bank(features[:0].float(), empty, empty)
    clusters = spherical_kmeans(features, k, iterations=iterations, generator=generator)
    size = len(clusters.centroids)
    pixels = torch.bincount(clusters.assignment, minlength=size)
    stride = int(image.max()) + 1
    pairs = (clusters.assignment * stride + image).unique()
    images = torch.bincount(pairs // stride, minlength=size)
    allowed = (pixels >= floors[0]) & (images >= floors[1])
    if k > 1 and not bool(allowed.any()):
        return _class_bank(features, image, label, 1, iterations, floors, generator)
    return _bank(clusters, label, pixels, allowed)


def _bank(
    clusters: Clusters, label: int, counts: Int[Tensor, " k"], allowed: Bool[Tensor, " k"]
) -> Bank:
    # Features of no length have no direction; a centre of such pixels would match everything.
    allowed = allowed & (clusters.centroids.norm(dim=1) > 0.5)
    counts = counts[allowed]
    return Bank(clusters.centroids[allowed], torch.full_like(counts, label), counts)


def _concatenate(banks: Sequence[Bank]) -> Bank:
    labels = torch.cat([bank.labels for bank in banks])
    order = labels.argsort(stable=True)
    vectors = torch.cat([bank.vectors for bank in banks])[order]
    return Bank(vectors, labels[order], torch.cat([bank.counts for bank in banks])[order])


def _at_most(group: Int[Tensor, " N"], cap: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Positions of at most `cap` random members of each group, ascending."""
    shuffled = torch.randperm(len(group), generator=generator).to(group.device)
    order = shuffled[group[shuffled].argsort(stable=True)]
    sizes = group.unique(return_counts=True)[1]
    start = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    rank = torch.arange(len(group), device=group.device) - start
    return order[rank < cap].sort().values


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Split `total` in proportion to `sizes`: at least 1 and at most its size for each."""
    exact = [size * total / sum(sizes) for size in sizes]
    shares = [max(1, int(x)) for x in exact]
    while sum(shares) > total:  # the minimum of 1 took too much: from the largest
        shares[max(range(len(shares)), key=shares.__getitem__)] -= 1
    for i in sorted(range(len(shares)), key=lambda i: shares[i] - exact[i])[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _sums(assignment: Int[Tensor, " N"], counts: Int[Tensor, " N"], size: int) -> Int[Tensor, " k"]:
    return torch.zeros(size, dtype=counts.dtype, device=counts.device).index_add(
        0, assignment, counts
    )


def _pool(maps: Float[Tensor, "B D *S"], grid: int) -> Float[Tensor, "B D *s"]:
    size: Any = [min(grid, side) for side in maps.shape[2:]]  # stubs want a tuple of fixed length
    pool = nnf.adaptive_avg_pool2d if maps.ndim == 4 else nnf.adaptive_avg_pool3d
    return pool(maps, size)
