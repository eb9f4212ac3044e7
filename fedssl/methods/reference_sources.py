"""Where a site's reference features come from: its bank, its pool of a step, or a received bank."""

from __future__ import annotations

import hashlib
import os

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fedssl.data.augment import random_theta, warp
from fedssl.functional.clustering import (
    IGNORE,
    Bank,
    grid_features,
    grid_labels,
    noisy_bank,
    reference_bank,
)
from fedssl.methods.base import LocalSetup, TrainingData
from fedssl.methods.reference_bank import ReceivedBank
from fedssl.methods.retrieval import References, RetrievalConfig, as_batch, look_at
from fedssl.models import SegmentationModel

__all__ = ["build_bank", "pool_of", "references_of"]


def build_bank(setup: LocalSetup, config: RetrievalConfig, data: TrainingData, round_: int) -> Bank:
    """Return this site's bank, made with the received weights in this round; possibly empty."""
    rows = [_cells_of_case(setup, config, data, case) for case in data.labeled]
    # Floors and caps are there for patients, who may have several images.
    numbered = zip(data.labeled, rows, strict=True)
    number = [torch.full_like(labels, data.subject(case)) for case, (_, labels) in numbered]
    bank = reference_bank(
        torch.cat([features for features, _ in rows]),
        torch.cat([labels for _, labels in rows]),
        torch.cat(number),
        setup.task.num_classes,
        centroids=config.centroids,
        background_centroids=config.background_centroids,
        iterations=config.iterations,
        min_pixels=config.min_pixels,
        min_images=config.min_images,
        cap_per_image_class=config.cap_per_image_class,
        cap_per_class=config.cap_per_class,
        generator=setup.rng.torch,
    )
    if config.noise_sigma == 0:
        return bank
    return noisy_bank(bank, config.noise_sigma, _secret_generator(setup, round_))


def _secret_generator(setup: LocalSetup, round_: int) -> torch.Generator:
    """Return the generator of a round's noise, seeded by what never leaves this site.

    What follows from the run's seed could be computed, and subtracted, by whoever gets the bank.
    """
    kept = setup.memory.load("secret")
    if kept is None:
        kept = {"secret": torch.frombuffer(bytearray(os.urandom(32)), dtype=torch.uint8)}
        setup.memory.save("secret", kept)
    digest = hashlib.sha256(bytes(kept["secret"].tolist()) + f"bank/{round_}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _cells_of_case(
    setup: LocalSetup, config: RetrievalConfig, data: TrainingData, case: int
) -> tuple[Tensor, Tensor]:
    """Return capped features [N, D] and labels [N] over a case's weak views."""
    image, label = data.image(case), data.label(case)
    parts = []
    for _ in range(config.views):
        seen, mask = _weak_view(setup, image, label)
        look = look_at(setup, setup.model, seen, config)
        parts.append(_labeled_cells(look.features, mask, setup.task.num_classes, config))
    features, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return _capped(features, labels, config.cap_per_image_class, setup.rng.torch)


def _weak_view(setup: LocalSetup, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image [C, *S] and its label [n, *S], moved; `IGNORE` comes in from outside.

    All slices of a volume move alike, so that neighbours stay neighbours.
    """
    dims = setup.task.spatial_dims
    batch, mask = as_batch(image, dims), label.reshape(-1, *label.shape[-dims:])
    theta = random_theta(batch[:1], setup.run.augment, setup.rng.torch).expand(len(batch), -1, -1)
    moved = warp(batch, theta)
    back = moved[0] if image.ndim == dims + 1 else moved.transpose(0, 1)
    return back, warp((mask - IGNORE)[:, None], theta, "nearest")[:, 0] + IGNORE


def pool_of(
    features: Tensor, label: Tensor, config: RetrievalConfig, num_classes: int, rng: torch.Generator
) -> References | None:
    """Return the cells of labeled samples as references; None if no cell is pure.

    Args:
        features: [n, D, *S] of the samples.
        label: [n, *S] their masks.
        config: grid, purity and the cap per class.
        num_classes: classes including background.
        rng: draws the cells of classes that have too many.
    """
    grid = grid_features(features, config.grid)
    cells, labels = _labeled_cells(grid, label, num_classes, config)
    cells, labels = _capped(cells, labels, config.pool_per_class, rng)
    return References(cells, labels) if len(labels) else None


def references_of(
    received: ReceivedBank,
    setup: LocalSetup,
    network: SegmentationModel,
    config: RetrievalConfig,
    data: TrainingData,
) -> References:
    """Return a received bank on the device; with `bank-select = cosine`, with affinities of sites.

    The affinity is the cosine of the own mean feature and a site's mean reference.
    """
    device = setup.device
    vectors, labels = received.bank.vectors.to(device), received.bank.labels.to(device)
    if config.bank_select == "all" or received.source is None:
        return References(vectors, labels)
    source = received.source.to(device)
    counts = received.bank.counts.to(device, torch.float32)
    sums = vectors.new_zeros(int(source.max()) + 1, vectors.shape[1])
    theirs = nnf.normalize(sums.index_add(0, source, vectors * counts[:, None]), dim=1)
    own = torch.zeros(vectors.shape[1], device=device)
    for case in data.unlabeled:
        features = look_at(setup, network, data.image(case), config).features
        own = own + nnf.normalize(features, dim=1).movedim(1, -1).flatten(0, -2).mean(0)
    return References(vectors, labels, (theirs @ nnf.normalize(own, dim=0))[source])


def _labeled_cells(
    features: Tensor, label: Tensor, num_classes: int, config: RetrievalConfig
) -> tuple[Tensor, Tensor]:
    labels = grid_labels(label, config.grid, num_classes, config.purity).flatten()
    kept = labels != IGNORE
    return features.movedim(1, -1).flatten(0, -2)[kept], labels[kept]


def _capped(
    features: Tensor, labels: Tensor, cap: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw at most `cap` rows of each class."""
    chosen = []
    for c in labels.unique().tolist():
        own = (labels == c).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=rng)[:cap].to(own.device)])
    index = torch.cat(chosen) if chosen else labels.new_zeros(0)
    return features[index], labels[index]
