"""Segmentation losses on logits: supervised, masked, and the reduction of unsupervised terms.

All of them compute in float32 (or float64 if given), whatever precision the logits come in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fedssl.functional.labels import (
    foreground_probabilities,
    foreground_targets,
    label_from_foreground,
)
from fedssl.types import Output, Term

__all__ = [
    "PixelLoss",
    "masked_pixel_loss",
    "masked_soft_dice",
    "reduce_term",
    "soft_dice_loss",
    "supervised_loss",
    "trusted_pixels",
]

SMOOTH = 1e-5


class PixelLoss(NamedTuple):
    """Per-sample sums; the loss of a sample is `numerator / denominator`."""

    numerator: Float[Tensor, " B"]
    denominator: Float[Tensor, " B"]


def soft_dice_loss(
    prob: Float[Tensor, "B F *S"],
    target: Shaped[Tensor, "B F *S"],
    mask: Shaped[Tensor, "B F *S"] | None = None,
    smooth: float = SMOOTH,
) -> Float[Tensor, ""]:
    """Return 1 - soft Dice, pooled over the batch per class, then averaged over classes.

    `dice_f = (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)` with sums over batch and space,
    as MONAI's `DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)`. A class that is missing in
    the whole batch costs nothing where it is not predicted, and about 1 where it is.

    Args:
        prob: foreground probabilities in [0, 1].
        target: binary maps.
        mask: binary; pixels at 0 take no part and get no gradient.
        smooth: added to numerator and denominator.

    Returns:
        A scalar in [0, 1].
    """
    if mask is not None:
        keep = mask != 0
        zero = torch.zeros((), dtype=prob.dtype, device=prob.device)
        prob, target = torch.where(keep, prob, zero), target * keep
    axes = (0, *range(2, prob.ndim))
    overlap = (prob * target).sum(axes)
    size = prob.sum(axes) + target.sum(axes)
    return (1.0 - (2.0 * overlap + smooth) / (size + smooth)).mean()


def supervised_loss(
    logits: Float[Tensor, "B O *S"],
    label: Int[Tensor, " B *S"],
    output: Output,
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the weighted sum of soft Dice over foreground classes and (binary) cross entropy.

    Exclusive: Dice on the softmax without background, cross entropy over all K classes.
    Nested: Dice on the sigmoids, binary cross entropy averaged over classes and pixels.

    Args:
        logits: K channels (exclusive) or F channels (nested).
        label: class indices in [0, K).
        output: channel encoding.
        dice_weight: factor of the Dice part; 0 leaves it out.
        ce_weight: factor of the cross-entropy part; 0 leaves it out.
    """
    logits = _full_precision(logits)
    prob = foreground_probabilities(logits, output)
    target = foreground_targets(label, prob.shape[1], output).to(logits.dtype)
    loss = logits.new_zeros(())
    if dice_weight:
        loss = loss + dice_weight * soft_dice_loss(prob, target)
    if ce_weight and output == Output.EXCLUSIVE:
        loss = loss + ce_weight * nnf.cross_entropy(logits, label.long())
    elif ce_weight:
        loss = loss + ce_weight * nnf.binary_cross_entropy_with_logits(logits, target)
    return loss


def masked_pixel_loss(
    logits: Float[Tensor, "B O *S"],
    target: Shaped[Tensor, "B F *S"],
    mask: Shaped[Tensor, "B F *S"],
    output: Output,
) -> PixelLoss:
    """Return per-sample sums of the pixel loss over trusted pixels, and their number.

    Nested: binary cross entropy, summed where `mask` is 1; the denominator counts pixels and
    classes. Exclusive: cross entropy with the class that `target` stands for, at pixels that
    every class trusts; the denominator counts pixels.

    Args:
        logits: K channels (exclusive) or F channels (nested).
        target: binary foreground maps.
        mask: binary trust per class and pixel. Elsewhere the gradient is exactly zero, even
            where logits are infinite or NaN.
        output: channel encoding.
    """
    logits = _full_precision(logits)
    keep = trusted_pixels(mask, output)
    logits = _hide(logits, keep)
    if output == Output.EXCLUSIVE:
        keep = keep[:, 0]
        loss = nnf.cross_entropy(logits, label_from_foreground(target, output), reduction="none")
    else:
        loss = nnf.binary_cross_entropy_with_logits(
            logits, target.to(logits.dtype), reduction="none"
        )
    loss = torch.where(keep, loss, torch.zeros_like(loss))
    return PixelLoss(loss.flatten(1).sum(1), keep.flatten(1).sum(1).to(loss.dtype))


def masked_soft_dice(
    logits: Float[Tensor, "B O *S"],
    target: Shaped[Tensor, "B F *S"],
    mask: Shaped[Tensor, "B F *S"],
    output: Output,
) -> Float[Tensor, " B"]:
    """Return each sample's soft Dice loss over trusted pixels, averaged over classes.

    Trust is read as in `masked_pixel_loss`. A class without a trusted pixel in a sample
    contributes 0, so a sample with an empty mask has loss 0 and no gradient.
    """
    logits = _full_precision(logits)
    keep = trusted_pixels(mask, output).expand_as(target)
    prob = foreground_probabilities(_hide(logits, trusted_pixels(mask, output)), output)
    prob = torch.where(keep, prob, torch.zeros_like(prob)).flatten(2)
    truth = (target * keep).to(prob.dtype).flatten(2)
    size = prob.sum(2) + truth.sum(2)
    dice = (2.0 * (prob * truth).sum(2) + SMOOTH) / (size + SMOOTH)
    return (1.0 - dice).mean(1)


def trusted_pixels(mask: Shaped[Tensor, "B F *S"], output: Output) -> Bool[Tensor, "B M *S"]:
    """Return per-class trust (nested), or one map of pixels that all classes trust (exclusive)."""
    keep = mask != 0
    return keep.all(dim=1, keepdim=True) if output == Output.EXCLUSIVE else keep


def reduce_term(
    term: Term, weight: Float[Tensor, " B"] | None = None, eps: float = 1e-8
) -> Float[Tensor, ""]:
    """Return the value of a term: `scale * sum(w * numerator) / (sum(w * denominator) + eps)`.

    Args:
        term: per-sample numerators and denominators.
        weight: w >= 0 per sample, without gradient; None stands for ones.
        eps: keeps the value 0, not NaN, where nothing is trusted.
    """
    numerator, denominator = term.numerator, term.denominator.detach()
    if weight is not None:
        numerator, denominator = weight * numerator, weight * denominator
    return term.scale * numerator.sum() / (denominator.sum() + eps)


def _full_precision(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _hide(logits: Tensor, keep: Bool[Tensor, "B M *S"]) -> Tensor:
    # Before the loss, not after it: 0 * inf would put NaN into the gradient.
    return torch.where(keep, logits, torch.zeros_like(logits))
