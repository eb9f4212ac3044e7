"""Labels for images, looked up among labeled reference features.

Features are the input of the last 1x1 convolution in eval mode, averaged over the cells of a grid;
labels and weights found there are brought back to the image by nearest neighbour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Tensor

from fedssl.config import MethodConfig
from fedssl.functional.clustering import grid_features
from fedssl.functional.denoising import downsample_features, upsample_nearest
from fedssl.functional.matching import match, soft_labels
from fedssl.methods.base import LocalSetup
from fedssl.methods.whole_case import predict_whole
from fedssl.models import SegmentationModel

__all__ = [
    "Look",
    "Proposal",
    "References",
    "RetrievalConfig",
    "as_batch",
    "look_at",
    "propose",
]


class RetrievalConfig(MethodConfig):
    """Keys of banks, pools and matching; the paper fixes the structure, these values are ours."""

    grid: int = Field(64, ge=2, description="cells per axis that features are averaged to")
    purity: float = Field(0.75, gt=0, le=1, description="share of a cell's majority class")
    k: int = Field(16, ge=1, description="nearest references that decide label and weight")
    tau: float = Field(0.1, gt=0, description="temperature of the class distances")
    weight_form: Literal["entropy", "exp"] = Field(
        "entropy", description="1 - H / ln K, or exp(-H), of the entropy H"
    )
    min_weight: float = Field(0.0, ge=0, le=1, description="labels below get weight 0")
    readout: Literal["nearest", "soft"] = Field(
        "nearest", description="label of the nearest reference, or attention over k"
    )
    readout_temperature: float = Field(0.02, gt=0, description="of the soft readout")
    agree_with_model: bool = Field(False, description="weight 0 where the model says otherwise")
    apply_to: Literal["all", "uncertain"] = Field(
        "all", description="uncertain: the model's label stays where it is sure"
    )
    certain: float = Field(0.9, ge=0, le=1, description="probability that counts as sure")
    bank_select: Literal["all", "cosine"] = Field(
        "all", description="cosine: references of similar sites count more"
    )
    views: int = Field(2, ge=1, description="weak views per labeled image in the bank")
    centroids: int = Field(64, ge=1, description="bank vectors per foreground class and site")
    background_centroids: int = Field(128, ge=1, description="bank vectors of the background")
    iterations: int = Field(10, ge=1, description="of k-means")
    cap_per_image_class: int = Field(
        64, ge=1, description="cells per subject and class in the bank"
    )
    cap_per_class: int = Field(20_000, ge=1, description="cells per class in the bank")
    min_pixels: int = Field(20, ge=1, description="cells that a bank vector is the mean of")
    min_images: int = Field(2, ge=1, description="subjects that these cells come from")
    noise_sigma: float = Field(0.0, ge=0, description="noise on each component of a bank vector")
    k_max: int = Field(4096, ge=2, description="vectors of the union of all banks")
    pool_images: int = Field(3, ge=1, description="labeled samples of a step's pool, mixed sites")
    pool_per_class: int = Field(1024, ge=1, description="cells per class in the pool")


@dataclass(frozen=True, slots=True)
class Look:
    """What a network says of images: pictures, the slices of a volume, or one volume.

    Args:
        features: [n, D, *g], averaged over a grid.
        prob: [n, K, *S] softmax.
    """

    features: Tensor
    prob: Tensor

    @staticmethod
    def of(features: Tensor, prob: Tensor, config: RetrievalConfig) -> Look:
        """Return a look from features [n, D, *S] of any resolution."""
        return Look(grid_features(features, config.grid), prob)


@dataclass(frozen=True, slots=True)
class References:
    """What queries are compared with.

    Args:
        vectors: [M, D].
        labels: [M] int64.
        affinity: [M] cosine of this site with the site that each comes from, or None: the votes of
            a reference count exp(affinity) times.
    """

    vectors: Tensor
    labels: Tensor
    affinity: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """Labels for images, and how much they are to count.

    Args:
        label: [n, *S] int64.
        weight: [n, *S] in [0, 1].
        soft: [n, K, *S] distribution that `label` is the mode of, or None.
    """

    label: Tensor
    weight: Tensor
    soft: Tensor | None = None


def look_at(
    setup: LocalSetup, network: SegmentationModel, image: Tensor, config: RetrievalConfig
) -> Look:
    """Return features and probabilities of one prepared image [C, *S]; sets eval mode."""
    network.eval()
    dims = setup.task.spatial_dims
    factor = _reduction(image.shape[-dims:], config.grid, network.stride)

    def predictor(x: Tensor) -> tuple[Tensor, Tensor]:
        out = network(x)
        features = out.features.float()
        if factor > 1:
            features = downsample_features(features, factor)
        # The full-sized map first: the windows' weights are shrunk for the other, and stay so.
        return torch.softmax(out.logits.float(), 1), features

    outputs = predict_whole(setup, predictor, image)
    prob, features = (as_batch(out, dims) for out in outputs)
    return Look.of(features, prob, config)


def propose(look: Look, references: References, config: RetrievalConfig) -> Proposal:
    """Return the labels that references give to images, at full resolution."""
    classes = look.prob.shape[1]
    size, grid = tuple(look.prob.shape[2:]), tuple(look.features.shape[2:])
    queries = look.features.movedim(1, -1).flatten(0, -2)

    def bias(temperature: float) -> Tensor | None:
        # Votes are exp(similarity / temperature), so that this makes them count exp(affinity) times
        return None if references.affinity is None else temperature * references.affinity

    found = match(
        queries,
        references.vectors,
        references.labels,
        classes,
        k=config.k,
        tau=config.tau,
        bias=bias(config.tau),
    )
    weight = found.weight
    if config.weight_form == "exp":
        weight = torch.exp(-math.log(classes) * (1 - weight))
    soft = None
    if config.readout == "soft":
        values = soft_labels(
            queries,
            references.vectors,
            references.labels,
            classes,
            k=config.k,
            temperature=config.readout_temperature,
            bias=bias(config.readout_temperature),
        )
        soft = upsample_nearest(values.reshape(-1, *grid, classes).movedim(-1, 1), size)
    label = upsample_nearest(found.label.reshape(-1, 1, *grid), size)[:, 0]
    weight = upsample_nearest(weight.reshape(-1, 1, *grid), size)[:, 0]
    return _checked(Proposal(label if soft is None else soft.argmax(1), weight, soft), look, config)


def _checked(proposal: Proposal, look: Look, config: RetrievalConfig) -> Proposal:
    """Apply what the network itself says of each pixel, and the smallest weight."""
    label, weight, soft = proposal.label, proposal.weight, proposal.soft
    most = look.prob.max(1)
    if config.agree_with_model:
        weight = weight * (label == most.indices)
    if config.apply_to == "uncertain":
        sure = most.values >= config.certain
        label = torch.where(sure, most.indices, label)
        weight = torch.where(sure, torch.ones_like(weight), weight)
        if soft is not None:
            hard = nnf.one_hot(most.indices, look.prob.shape[1]).movedim(-1, 1).to(soft.dtype)
            soft = torch.where(sure[:, None], hard, soft)
    return Proposal(label, weight * (weight >= config.min_weight), soft)


def as_batch(x: Tensor, dims: int) -> Tensor:
    """Turn [M, *S] into [1, M, *S], and a stack of slices [M, D, H, W] into [D, M, H, W]."""
    return x[None] if x.ndim == dims + 1 else x.transpose(0, 1)


def _reduction(sides: torch.Size, grid: int, stride: int) -> int:
    """Return the power of two, up to the stride, by which features may shrink before the grid.

    Means of means are the means over the grid's cells only where both divide the image.
    """
    factor = 1
    while 2 * factor <= stride and all(side % (2 * factor * grid) == 0 for side in sides):
        factor *= 2
    return factor
