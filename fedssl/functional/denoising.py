"""Pseudo-labels and the trust in them: the denoiser of DPL.

Chen, Liu, Jin, Dou, Heng, "Source-Free Domain Adaptive Fundus Image Segmentation with Denoised
Pseudo-Labeling", MICCAI 2021. T passes with dropout give a mean probability p and an uncertainty
u; reliable pixels (u < eta) give an object and a background prototype per class; a pixel is
trusted where it is reliable and where the nearer prototype agrees with its pseudo-label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Shaped, UInt8
from scipy import ndimage
from torch import Tensor

from fedssl.functional.labels import repair_nesting
from fedssl.types import Output

__all__ = [
    "DenoisedLabel",
    "FeatureGrid",
    "PrototypeSums",
    "Prototypes",
    "TrustMode",
    "denoise_nested",
    "downsample_features",
    "largest_component",
    "prototype_label",
    "prototype_sums",
    "prototypes",
    "pseudo_label",
    "retained_fraction",
    "to_feature_grid",
    "trust_mask",
    "upsample_nearest",
]

TrustMode = Literal["none", "uncertainty", "prototype", "both"]


class FeatureGrid(NamedTuple):
    """Pseudo-label, mean probability and uncertainty at the size of the feature map."""

    label: UInt8[Tensor, "B F *s"]
    prob: Float[Tensor, "B F *s"]
    uncertainty: Float[Tensor, "B F *s"]


class DenoisedLabel(NamedTuple):
    """A pseudo-label and the trust in it, both binary."""

    label: UInt8[Tensor, "B F *S"]
    mask: UInt8[Tensor, "B F *S"]


@dataclass(frozen=True, slots=True)
class PrototypeSums:
    """Weighted feature sums and weights in float64; `+` joins batches and sites."""

    object_sum: Float[Tensor, "F D"]
    object_weight: Float[Tensor, " F"]
    background_sum: Float[Tensor, "F D"]
    background_weight: Float[Tensor, " F"]

    def __add__(self, other: PrototypeSums) -> PrototypeSums:
        return PrototypeSums(
            self.object_sum + other.object_sum,
            self.object_weight + other.object_weight,
            self.background_sum + other.background_sum,
            self.background_weight + other.background_weight,
        )


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Mean feature of each class and of its background; zeros where `valid` is False."""

    object: Float[Tensor, "F D"]
    background: Float[Tensor, "F D"]
    valid: Bool[Tensor, " F"]


def pseudo_label(
    mean_prob: Float[Tensor, "B F *S"], gamma: float | Tensor, output: Output = Output.NESTED
) -> UInt8[Tensor, "B F *S"]:
    """Return `1[p > gamma]`; of exclusive classes, which may all pass below 0.5, the likeliest."""
    label = mean_prob > (gamma.to(mean_prob) if isinstance(gamma, Tensor) else gamma)
    if output == Output.EXCLUSIVE:
        label = label & (mean_prob == mean_prob.amax(dim=1, keepdim=True))
    return label.to(torch.uint8)


def to_feature_grid(
    label: UInt8[Tensor, "B F *S"],
    prob: Float[Tensor, "B F *S"],
    uncertainty: Float[Tensor, "B F *S"],
    size: tuple[int, ...],
) -> FeatureGrid:
    """Bring pseudo-label and statistics to the size [*s] of a feature map.

    The label is taken nearest; probability and uncertainty bilinearly (trilinearly in 3D) with
    aligned corners, as published.
    """
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return FeatureGrid(
        upsample_nearest(label, size),
        nnf.interpolate(prob, size, mode=mode, align_corners=True),
        nnf.interpolate(uncertainty, size, mode=mode, align_corners=True),
    )


def downsample_features(features: Float[Tensor, "B D *S"], factor: int) -> Float[Tensor, "B D *s"]:
    """Average features over cells; each side becomes `max(1, side // factor)`."""
    size = _grid_size(features, factor)
    if len(size) == 2:
        return nnf.adaptive_avg_pool2d(features, size)
    depth, height, width = size
    return nnf.adaptive_avg_pool3d(features, (depth, height, width))


def upsample_nearest(
    x: Shaped[Tensor, "B F *s"], size: tuple[int, ...]
) -> Shaped[Tensor, "B F *S"]:
    """Resize to `size` by the nearest neighbour, in any dtype; it can also shrink."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    values = x if torch.is_floating_point(x) else x.float()
    return nnf.interpolate(values, tuple(size), mode="nearest").to(x.dtype)


def prototype_sums(
    features: Float[Tensor, "B D *s"],
    label: Shaped[Tensor, "B F *s"],
    prob: Float[Tensor, "B F *s"],
    uncertainty: Float[Tensor, "B F *s"],
    eta: float,
) -> PrototypeSums:
    """Return the feature sums of reliable object and background pixels, per class.

    An object pixel (y = 1, u < eta) weighs p, a background pixel (y = 0, u < eta) weighs 1 - p.
    """
    flat = features.double().flatten(2)
    reliable = (uncertainty < eta).flatten(2)
    y, p = (label != 0).flatten(2), prob.double().flatten(2)
    zero = torch.zeros((), dtype=torch.float64, device=features.device)
    object_weight = torch.where(reliable & y, p, zero)
    background_weight = torch.where(reliable & ~y, 1.0 - p, zero)
    return PrototypeSums(
        torch.einsum("bfn,bdn->fd", object_weight, flat),
        object_weight.sum((0, 2)),
        torch.einsum("bfn,bdn->fd", background_weight, flat),
        background_weight.sum((0, 2)),
    )


def prototypes(sums: PrototypeSums) -> Prototypes:
    """Return mean features; a class that lacks either side is not valid."""
    valid = (sums.object_weight > 0) & (sums.background_weight > 0)
    return Prototypes(
        _mean(sums.object_sum, sums.object_weight, valid),
        _mean(sums.background_sum, sums.background_weight, valid),
        valid,
    )


def prototype_label(
    features: Float[Tensor, "B D *s"], prototypes: Prototypes
) -> UInt8[Tensor, "B F *s"]:
    """Return `1[|f - z_obj|^2 < |f - z_bg|^2]` per class; 0 on ties and for invalid classes.

    Written as `(f - (z_obj + z_bg) / 2) . (z_obj - z_bg) > 0`, which is the same inequality, so
    that no [B, F, D, *s] array of differences is needed. Runs in float64.
    """
    near, far = prototypes.object.double(), prototypes.background.double()
    axis = (near - far).to(features.device)
    offset = ((near + far) / 2 * (near - far)).sum(1).to(features.device)
    score = torch.einsum("fd,bdn->bfn", axis, features.double().flatten(2)) - offset[:, None]
    grid = (features.shape[0], axis.shape[0], *features.shape[2:])
    return (score > 0).to(torch.uint8).reshape(grid)


def trust_mask(
    label: Shaped[Tensor, "B F *S"],
    uncertainty: Float[Tensor, "B F *S"],
    proto_label: Shaped[Tensor, "B F *S"] | None,
    valid: Bool[Tensor, " F"] | None,
    *,
    eta: float,
    mode: TrustMode,
) -> UInt8[Tensor, "B F *S"]:
    """Return where a pseudo-label is trusted.

    Args:
        label: hard pseudo-label.
        uncertainty: standard deviation over passes.
        proto_label: label by the nearer prototype, at full size; needed for `prototype`, `both`.
        valid: classes with prototypes; the prototype test is off for others. None: all.
        eta: pixels with u < eta pass the uncertainty test.
        mode: which tests a pixel must pass.

    Raises:
        ValueError: an unknown mode, or a prototype test without `proto_label`.
    """
    if mode not in ("none", "uncertainty", "prototype", "both"):
        raise ValueError(f"Unknown mode {mode!r}; use none, uncertainty, prototype or both.")
    mask = torch.ones_like(label, dtype=torch.bool)
    if mode in ("uncertainty", "both"):
        mask = mask & (uncertainty < eta)
    if mode in ("prototype", "both"):
        if proto_label is None:
            raise ValueError(f"Mode {mode!r} compares with prototypes, but proto_label is None.")
        agrees = (label != 0) == (proto_label != 0)
        if valid is not None:
            shape = (1, -1) + (1,) * (label.ndim - 2)
            agrees = agrees | ~valid.to(label.device).reshape(shape)
        mask = mask & agrees
    return mask.to(torch.uint8)


def denoise_nested(label: UInt8[Tensor, "B F *S"], mask: UInt8[Tensor, "B F *S"]) -> DenoisedLabel:
    """Repair the nesting of a pseudo-label and trust no pixel that the repair changed."""
    repaired, changed = repair_nesting(label)
    return DenoisedLabel(repaired, torch.where(changed, torch.zeros_like(mask), mask))


def largest_component(mask: UInt8[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    """Keep the largest connected component (neighbours share a side; the first one on ties)."""
    components, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(components.ravel())[1:]
    return np.asarray(components == sizes.argmax() + 1, dtype=np.uint8)


def retained_fraction(mask: Shaped[Tensor, "B F *S"]) -> Float[Tensor, " F"]:
    """Return the trusted share of all pixels per class, in [0, 1]."""
    return (mask != 0).transpose(0, 1).flatten(1).double().mean(1).float()


def _grid_size(x: Tensor, factor: int) -> tuple[int, ...]:
    return tuple(max(1, side // factor) for side in x.shape[2:])


def _mean(total: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    safe = torch.where(valid, weight, torch.ones_like(weight))
    return torch.where(valid[:, None], total / safe[:, None], torch.zeros_like(total))
