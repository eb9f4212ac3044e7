"""From predicted quality to weights, a regulariser, and a gate that decides whether to trust it.

Abhishek and Hamarneh, "Quality-guided semi-supervised learning for medical image segmentation",
arXiv 2606.01753, 2026: eqs. 5-8, and the acceptance test of the released code. The sums that
let sites pool a correlation without sharing a case are ours.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

__all__ = [
    "CorrelationSums",
    "gate",
    "image_quality",
    "quality_regulariser",
    "quality_weights",
]

_SMALLEST_VARIANCE = 1e-12
"""Below this a score counts as constant; scores lie in [0, 1] and are summed in float64."""


def quality_weights(
    quality: Float[Tensor, " B"], *, gamma: float = 2.0, threshold: float = 0.5
) -> Float[Tensor, " B"]:
    """Return `q^gamma` where q is at least the threshold, else 0; no gradient.

    Args:
        quality: predicted Dice of each pseudo-label, in [0, 1].
        gamma: exponent, >= 0; larger trusts only the best.
        threshold: below it a pseudo-label is not used at all.
    """
    quality = quality.detach()
    return torch.where(quality >= threshold, quality.pow(gamma), torch.zeros_like(quality))


def quality_regulariser(quality: Float[Tensor, " ..."]) -> Float[Tensor, ""]:
    """Return 1 - mean predicted quality of the student's masks, over samples and classes.

    Args:
        quality: in [0, 1], differentiable with respect to the masks.
    """
    return 1.0 - quality.mean()


def image_quality(
    quality: Float[Tensor, "B F"], mask: Num[Tensor, "B F *S"]
) -> Float[Tensor, " B"]:
    """Return one quality per image: the mean over foreground classes that its mask contains.

    Where the mask is empty, the mean over all classes: whether emptiness is right.

    Args:
        quality: predicted Dice per class.
        mask: binary pseudo-label per class.
    """
    present = (mask != 0).flatten(2).any(2)
    counted = present | ~present.any(1, keepdim=True)
    return (quality * counted).sum(1) / counted.sum(1)


@dataclass(frozen=True, slots=True)
class CorrelationSums:
    """Sufficient statistics of Pearson's correlation; those of two sites add up.

    Args:
        n: pairs.
        sum_x: sum of the first score.
        sum_y: sum of the second.
        sum_xx: sum of squares of the first.
        sum_yy: sum of squares of the second.
        sum_xy: sum of products.
    """

    n: float = 0.0
    sum_x: float = 0.0
    sum_y: float = 0.0
    sum_xx: float = 0.0
    sum_yy: float = 0.0
    sum_xy: float = 0.0

    @classmethod
    def of(cls, x: Float[Tensor, " ..."], y: Float[Tensor, " ..."]) -> CorrelationSums:
        """Return the sums over pairs of two tensors of one shape.

        Raises:
            ValueError: the shapes differ.
        """
        if x.shape != y.shape:
            raise ValueError(f"scores of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair")
        a, b = x.detach().flatten().double(), y.detach().flatten().double()
        sums = torch.stack((a.sum(), b.sum(), a @ a, b @ b, a @ b)).tolist()
        return cls(float(len(a)), *sums)

    @classmethod
    def from_tensor(cls, sums: Float[Tensor, " 6"]) -> CorrelationSums:
        """Return the sums that `to_tensor` wrote."""
        return cls(*sums.double().tolist())

    def to_tensor(self) -> Float[Tensor, " 6"]:
        """Return the six sums in order, float64, as they are sent."""
        return torch.tensor(astuple(self), dtype=torch.float64)

    def __add__(self, other: CorrelationSums) -> CorrelationSums:
        return CorrelationSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def pearson(self) -> float:
        """Return the correlation in [-1, 1]; 0 where a score does not vary or nothing was added.

        It is NaN where a score is not finite.
        """
        if self.n == 0:
            return 0.0
        if not all(map(math.isfinite, astuple(self))):
            return math.nan
        mean_x, mean_y = self.sum_x / self.n, self.sum_y / self.n
        variance_x = self.sum_xx / self.n - mean_x**2
        variance_y = self.sum_yy / self.n - mean_y**2
        if min(variance_x, variance_y) <= _SMALLEST_VARIANCE:
            return 0.0
        covariance = self.sum_xy / self.n - mean_x * mean_y
        return max(-1.0, min(1.0, covariance / math.sqrt(variance_x * variance_y)))


def gate(
    normal: CorrelationSums,
    blackout: CorrelationSums,
    *,
    min_correlation: float = 0.7,
    max_blackout: float = 0.7,
) -> bool:
    """Whether a quality predictor may guide training.

    Args:
        normal: predicted against true Dice on validation masks.
        blackout: predictions against those for the same masks with the image blacked out. Where
            they agree, the predictor judges the mask's shape and does not look at the image.
        min_correlation: `normal` must correlate more than this.
        max_blackout: `blackout` must correlate less than this.

    A score that is not finite fails.
    """
    return normal.pearson() > min_correlation and blackout.pearson() < max_blackout
