"""Unsupervised terms as baselines build them: a consistency, or a loss on a pseudo-label."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedssl.functional.consistency import foreground, hard_label, probabilities, squared_error
from fedssl.functional.labels import foreground_probabilities
from fedssl.functional.losses import masked_pixel_loss, masked_soft_dice
from fedssl.types import Output, Term

__all__ = ["consistency_term", "dice_term", "pseudo_label_term"]


def consistency_term(
    name: str,
    logits: Tensor,
    target: Tensor,
    *,
    image: Tensor,
    output: Output,
    scale: float,
    gate: Tensor | None = None,
) -> Term:
    """Return the mean squared difference between a student and a target.

    Args:
        name: of the term.
        logits: [B, O, *S] of the student.
        target: [B, O, *S] probabilities; no gradient flows into them.
        image: [B, C, *S] that the target belongs to.
        output: channel encoding.
        scale: factor of the term.
        gate: [B, M, *S] binary, where it counts; None: everywhere.
    """
    prob = probabilities(logits, output)
    numerator, denominator = squared_error(prob, target, gate)
    return Term(
        name,
        numerator,
        denominator,
        scale=scale,
        image=image,
        pseudo_mask=hard_label(target, output),
        student_prob=foreground(prob, output),
    )


def pseudo_label_term(
    name: str,
    logits: Tensor,
    label: Tensor,
    trust: Tensor,
    *,
    image: Tensor,
    output: Output,
    scale: float,
    dice_weight: float = 0.0,
    over: Literal["trusted", "all"] = "trusted",
) -> Term:
    """Return the cross entropy with a pseudo-label where it is trusted, plus Dice if asked for.

    Args:
        name: of the term.
        logits: [B, O, *S] of the student.
        label: [B, F, *S] binary foreground maps.
        trust: [B, F, *S] binary.
        image: [B, C, *S] that the label belongs to.
        output: channel encoding.
        scale: factor of the term.
        dice_weight: of the soft Dice over trusted pixels.
        over: the sum is divided by the number of trusted pixels, or of all.
    """
    numerator, denominator = masked_pixel_loss(logits, label.float(), trust, output)
    if over == "all":
        channels = 1 if output == Output.EXCLUSIVE else label.shape[1]
        denominator = torch.full_like(denominator, channels * label[0, 0].numel())
    if dice_weight > 0:
        dice = masked_soft_dice(logits, label.float(), trust, output)
        numerator = numerator + dice_weight * dice * denominator
    return Term(
        name,
        numerator,
        denominator,
        scale=scale,
        image=image,
        pseudo_mask=label,
        student_prob=foreground_probabilities(_full(logits), output),
    )


def dice_term(
    name: str,
    logits: Tensor,
    label: Tensor,
    trust: Tensor,
    *,
    image: Tensor,
    output: Output,
    scale: float,
) -> Term:
    """Return each sample's soft Dice loss with a pseudo-label, over trusted pixels.

    Arguments as for `pseudo_label_term`.
    """
    dice = masked_soft_dice(logits, label.float(), trust, output)
    return Term(
        name,
        dice,
        torch.ones_like(dice),
        scale=scale,
        image=image,
        pseudo_mask=label,
        student_prob=foreground_probabilities(_full(logits), output),
    )


def _full(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
