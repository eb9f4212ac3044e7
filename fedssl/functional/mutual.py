"""Mutual learning of several decoders with reliable pseudo-labels.

Source: Su, Luo, Lian, Lin, Li, "Mutual learning with reliable pseudo label for semi-supervised
medical image segmentation", Medical Image Analysis 94:103111, 2024, eqs. 8-13, in the form that
the released code computes: cross entropy on logits, all samples of the batch, every ordered pair
of decoders. A student learns a voxel from a teacher where the teacher has the lower entropy, as
much as the teacher's feature agrees with the prototypes of its own pseudo-label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["MutualLoss", "TeacherView", "mutual_loss", "pooled_dice_loss", "teacher_view"]

ENTROPY_EPS = 1e-6
COUNT_EPS = 1e-6
COSINE_EPS = 1e-8
DICE_EPS = 1e-8
SCOPES = ("all", "unlabeled")
CE_INPUTS = ("logits", "probs")
CLASSES = ("all", "present")


@dataclass(frozen=True, slots=True)
class TeacherView:
    """What one decoder says about a batch when it teaches; nothing of it carries gradient.

    Args:
        entropy: entropy of the softmax, in nats.
        label: pseudo-label, the most probable class.
        reliability: agreement of feature similarity and probability, in [0, 1] for features that
            are not negative, as after a ReLU; down to -3 where a cosine is negative.
    """

    entropy: Float[Tensor, " b *S"]
    label: Int[Tensor, " b *S"]
    reliability: Float[Tensor, " b *S"]


@dataclass(frozen=True, slots=True)
class MutualLoss:
    """Loss of one step and what it was made of.

    Axes: b samples in scope (all B, or those after the labeled ones), P ordered pairs of decoders,
    N decoders. The consistency is `sum_p sum_b numerator / (sum_b denominator + 1e-6)`.

    Args:
        total: `gamma * supervised + beta * consistency`.
        supervised: sum over decoders of the soft Dice loss on the labeled samples.
        consistency: sum over pairs of the reliability-weighted cross entropy.
        numerator: per pair and sample, sum over voxels of selected * reliability * CE;
            differentiable.
        denominator: per pair and sample, the number of selected voxels.
        pairs: (student, teacher) of each pair, as positions in the list of decoders.
        teachers: each decoder's entropy, pseudo-label and reliability.
        selected: per pair, the share of voxels in scope that the student learns from.
        reliability: per decoder, the mean over voxels in scope.
    """

    total: Float[Tensor, ""]
    supervised: Float[Tensor, ""]
    consistency: Float[Tensor, ""]
    numerator: Float[Tensor, "P b"]
    denominator: Float[Tensor, "P b"]
    pairs: tuple[tuple[int, int], ...]
    teachers: tuple[TeacherView, ...]
    selected: Float[Tensor, " P"]
    reliability: Float[Tensor, " N"]


def mutual_loss(
    logits: Sequence[Float[Tensor, "B K *S"]],
    features: Sequence[Float[Tensor, "B D *S"]],
    target: Int[Tensor, " L *S"],
    num_labeled: int,
    *,
    gamma: float = 0.5,
    beta: float = 1.0,
    scope: str = "all",
    ce_input: str = "logits",
    classes: str = "all",
) -> MutualLoss:
    """Return the loss of a batch whose first `num_labeled` samples have masks.

    Computed in float32 (float64 if given), also under autocast: the strict comparison of two
    entropies does not survive half precision. Gradients flow into the students' logits only.

    Args:
        logits: one tensor per decoder, at least two.
        features: per decoder, the input of its last 1x1 convolution.
        target: class indices in [0, K), an axis of one channel aside; at least the labeled samples,
            the rest is not read.
        num_labeled: labeled samples at the front of the batch; may be 0.
        gamma: weight of the supervised part.
        beta: weight of the consistency, usually ramped up over the whole run.
        scope: samples of the consistency: `all` (as released) or `unlabeled` (as described).
        ce_input: `logits`, or `probs` for the cross entropy on softmax outputs of the first
            release, with which the published numbers were most likely made.
        classes: of the reliability: `all`, or `present` for those of the teacher's pseudo-label in
            that sample; for many classes, of which most samples show few. Dice is over the
            foreground classes in the target; with two classes and `all`, over the one there is.

    Raises:
        ValueError: on fewer than two decoders, shapes that differ, or an unknown option.
    """
    if target.ndim == logits[0].ndim and target.shape[1] == 1:
        target = target.squeeze(1)
    _check(logits, features, target, num_labeled)
    _check_options(
        scope=(scope, SCOPES), ce_input=(ce_input, CE_INPUTS), classes=(classes, CLASSES)
    )
    with torch.autocast(logits[0].device.type, enabled=False):
        full = [_full_precision(z) for z in logits]
        first = num_labeled if scope == "unlabeled" else 0
        teachers = tuple(
            teacher_view(z[first:].detach(), _full_precision(f[first:].detach()), classes)
            for z, f in zip(full, features, strict=True)
        )
        log_probs = [_log_probabilities(z[first:], ce_input) for z in full]
        pairs = tuple(permutations(range(len(full)), 2))
        sums = [_pair_sums(log_probs[i], teachers[i].entropy, teachers[j]) for i, j in pairs]
        numerator = torch.stack([n for n, _ in sums])
        denominator = torch.stack([d for _, d in sums])
        consistency = (numerator.sum(1) / (denominator.sum(1) + COUNT_EPS)).sum()
        supervised = _supervised(full, target[:num_labeled], classes)
    voxels = max(teachers[0].label.numel(), 1)
    return MutualLoss(
        total=gamma * supervised + beta * consistency,
        supervised=supervised,
        consistency=consistency,
        numerator=numerator,
        denominator=denominator,
        pairs=pairs,
        teachers=teachers,
        selected=denominator.sum(1) / voxels,
        reliability=torch.stack([t.reliability.sum() / voxels for t in teachers]),
    )


@torch.no_grad()
def teacher_view(
    logits: Float[Tensor, "b K *S"], features: Float[Tensor, "b D *S"], classes: str = "all"
) -> TeacherView:
    """Return entropy, pseudo-label and reliability of one decoder.

    Reliability is `mean_c [1 - (s_c - p_c)^2]`, where s_c is the cosine between a voxel's feature
    and the sample's prototype of class c, the mean feature of the voxels labeled c. A class that
    the pseudo-label does not contain has prototype 0, hence similarity 0.

    Args:
        logits: float32 or float64.
        features: same dtype.
        classes: `all`, or `present` to average over the classes in the sample's pseudo-label.
    """
    prob = torch.softmax(logits, dim=1)
    entropy = -(prob * (prob + ENTROPY_EPS).log()).sum(1)
    # max, not argmax, and a plain sum of squares, not norm: several times faster on the CPU.
    label = prob.max(1).indices
    index = torch.arange(prob.shape[1], device=label.device)[:, None]
    member = (label.flatten(1)[:, None] == index).to(features.dtype)
    flat = features.flatten(2)
    count = member.sum(2)
    prototype = (member @ flat.transpose(1, 2)) / (count[:, :, None] + COUNT_EPS)
    norm = flat.square().sum(1, keepdim=True).sqrt().clamp_min(COSINE_EPS)
    similarity = (nnf.normalize(prototype, dim=2) @ flat) / norm
    agreement = 1.0 - (similarity - prob.flatten(2)).square()
    reliability = _class_mean(agreement, count if classes == "present" else None)
    return TeacherView(entropy, label, reliability.reshape(entropy.shape))


def pooled_dice_loss(
    prob: Float[Tensor, "L K *S"], target: Int[Tensor, " L *S"], classes: str = "all"
) -> Float[Tensor, ""]:
    """Return the soft Dice loss over foreground classes, pooled over the batch.

    `1 - (2 sum(p t) + 1e-8) / (sum(p) + sum(t) + 1e-8)` per class with sums over batch and space,
    then the mean over classes; with two classes that is the Dice loss of class 1.

    Args:
        prob: softmax over K classes, background first.
        target: class indices in [0, K).
        classes: `all`, or `present` for the classes in the target only (0 if there is none).
    """
    truth = nnf.one_hot(target.flatten().long(), prob.shape[1])[:, 1:].to(prob.dtype)
    guess = prob.flatten(2).transpose(1, 2).flatten(0, 1)[:, 1:]
    size = truth.sum(0)
    dice = (2.0 * (guess * truth).sum(0) + DICE_EPS) / (guess.sum(0) + size + DICE_EPS)
    counted = (size > 0).to(prob.dtype) if classes == "present" else torch.ones_like(size)
    return ((1.0 - dice) * counted).sum() / counted.sum().clamp_min(1.0)


def _class_mean(
    agreement: Float[Tensor, "b K V"], count: Float[Tensor, "b K"] | None
) -> Float[Tensor, "b V"]:
    if count is None:
        return agreement.mean(1)
    present = (count > 0).to(agreement.dtype)
    return (agreement * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)


def _log_probabilities(logits: Float[Tensor, "b K *S"], ce_input: str) -> Float[Tensor, "b K *S"]:
    scores = torch.softmax(logits, dim=1) if ce_input == "probs" else logits
    return torch.log_softmax(scores, dim=1)


def _pair_sums(
    log_prob: Float[Tensor, "b K *S"], entropy: Float[Tensor, " b *S"], teacher: TeacherView
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Per-sample sums of one (student, teacher) pair: weighted cross entropy, selected voxels."""
    # Strict: where both are equally sure, neither teaches the other.
    selected: Bool[Tensor, " b *S"] = entropy > teacher.entropy
    weight = selected * teacher.reliability
    cross_entropy = nnf.nll_loss(log_prob, teacher.label, reduction="none")
    numerator = (weight * cross_entropy).flatten(1).sum(1)
    return numerator, selected.flatten(1).sum(1).to(numerator.dtype)


def _supervised(
    logits: Sequence[Float[Tensor, "B K *S"]], target: Int[Tensor, " L *S"], classes: str
) -> Float[Tensor, ""]:
    if len(target) == 0:
        return logits[0].new_zeros(())
    # The published loss is binary and has no exception; of several classes most are absent.
    counted = "present" if logits[0].shape[1] > 2 else classes
    losses = [
        pooled_dice_loss(torch.softmax(z[: len(target)], dim=1), target, counted) for z in logits
    ]
    return torch.stack(losses).sum()


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check(
    logits: Sequence[Tensor], features: Sequence[Tensor], target: Tensor, num_labeled: int
) -> None:
    if len(logits) < 2 or len(features) != len(logits):
        msg = f"needs two or more decoders, got {len(logits)} logits and {len(features)} features"
        raise ValueError(msg)
    batch, _, *space = logits[0].shape
    if any(z.shape != logits[0].shape for z in logits):
        msg = f"logits differ in shape: {[tuple(z.shape) for z in logits]}"
        raise ValueError(msg)
    if any((f.shape[0], *f.shape[2:]) != (batch, *space) for f in features):
        msg = f"features {[tuple(f.shape) for f in features]} do not fit logits {tuple(space)}"
        raise ValueError(msg)
    if not 0 <= num_labeled <= min(batch, len(target)):
        msg = f"num_labeled {num_labeled} exceeds batch {batch} or target {len(target)}"
        raise ValueError(msg)
    if num_labeled and list(target.shape[1:]) != space:
        msg = f"target has shape {tuple(target.shape)}, expected (*, {space})"
        raise ValueError(msg)


def _check_options(**options: tuple[str, tuple[str, ...]]) -> None:
    for name, (given, allowed) in options.items():
        if given not in allowed:
            msg = f"{name}={given!r} is unknown; choose one of {allowed}"
            raise ValueError(msg)
