"""Consistency losses between two predictions, and what decides where they count.

Everything works on probabilities with the network's own channels: K softmax channels (exclusive)
or F sigmoids (nested). Losses are per-sample sums, so that a term can be reweighted. The maps
that gate them have one channel for all classes (exclusive) or one per class (nested).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from fedssl.functional.labels import decode, foreground_targets
from fedssl.functional.losses import PixelLoss
from fedssl.types import Output

__all__ = [
    "confidence",
    "foreground",
    "hard_label",
    "mutual_sharpening",
    "per_class",
    "probabilities",
    "rectified_consistency",
    "relative_entropy",
    "sharpen",
    "sharpen_binary",
    "squared_error",
]

EPS = 1e-8


def probabilities(logits: Float[Tensor, "B O *S"], output: Output) -> Float[Tensor, "B O *S"]:
    """Return the softmax (exclusive) or the sigmoids (nested), in float32 or float64."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.softmax(logits, dim=1) if output == Output.EXCLUSIVE else torch.sigmoid(logits)


def foreground(prob: Float[Tensor, "B O *S"], output: Output) -> Float[Tensor, "B F *S"]:
    """Return the foreground channels of `probabilities`."""
    return prob[:, 1:] if output == Output.EXCLUSIVE else prob


def hard_label(prob: Float[Tensor, "B O *S"], output: Output) -> UInt8[Tensor, "B F *S"]:
    """Return the most probable class (exclusive) or `p > 0.5`, nested, as foreground maps."""
    if output == Output.EXCLUSIVE:
        return foreground_targets(prob.argmax(1), prob.shape[1] - 1, output).to(torch.uint8)
    return foreground_targets(decode(prob, output), prob.shape[1], output).to(torch.uint8)


def confidence(prob: Float[Tensor, "B O *S"], output: Output) -> Float[Tensor, "B M *S"]:
    """Return the probability of `hard_label`: the largest one, or per class p or 1 - p.

    Nested: where an inner class is likely but one around it is not, the label has neither, and the
    confidence in that is low.
    """
    if output == Output.EXCLUSIVE:
        return prob.amax(1, keepdim=True)
    return torch.where(hard_label(prob, output) != 0, prob, 1 - prob)


def relative_entropy(prob: Float[Tensor, "B O *S"], output: Output) -> Float[Tensor, "B M *S"]:
    """Return the entropy as a fraction of its maximum (ln K, or ln 2 per class), in [0, 1]."""
    log = prob.clamp_min(EPS).log()
    if output == Output.EXCLUSIVE:
        return -(prob * log).sum(1, keepdim=True) / math.log(prob.shape[1])
    rest = 1 - prob
    return -(prob * log + rest * rest.clamp_min(EPS).log()) / math.log(2)


def per_class(gate: Shaped[Tensor, "B M *S"], classes: int) -> Shaped[Tensor, "B F *S"]:
    """Return a gate with one channel per foreground class."""
    return gate.expand(-1, classes, *gate.shape[2:])


def squared_error(
    prob: Float[Tensor, "B O *S"],
    target: Float[Tensor, "B O *S"],
    gate: Shaped[Tensor, "B M *S"] | None = None,
) -> PixelLoss:
    """Return per-sample sums of `gate * (p - q)^2` over channels and pixels, and what they count.

    `sum(numerator) / sum(denominator)` is the mean over gated elements; with two exclusive
    channels that is `sum M (p - q)^2 / (2 sum M)`.

    Args:
        prob: of the student.
        target: of the teacher; no gradient flows into it.
        gate: binary; None counts everything.
    """
    error = (prob - target.detach()).square()
    keep = torch.ones_like(error) if gate is None else gate.to(error.dtype).expand_as(error)
    return PixelLoss((keep * error).flatten(1).sum(1), keep.flatten(1).sum(1))


def sharpen(
    prob: Float[Tensor, "B O *S"], temperature: float, output: Output
) -> Float[Tensor, "B O *S"]:
    """Return `p^(1/T)`, normalised over the channels (exclusive) or against 1 - p (nested).

    Args:
        prob: in [0, 1].
        temperature: in (0, 1]; 1 leaves `prob` as it is.
        output: channel encoding.
    """
    if output == Output.NESTED:
        return sharpen_binary(prob, temperature)
    power = (prob / prob.amax(1, keepdim=True)) ** (1 / temperature)  # the largest cannot underflow
    return power / power.sum(1, keepdim=True)


def sharpen_binary(prob: Float[Tensor, "B O *S"], temperature: float) -> Float[Tensor, "B O *S"]:
    """Return `p^(1/T) / (p^(1/T) + (1 - p)^(1/T))`, channel by channel."""
    larger = torch.maximum(prob, 1 - prob)  # which cannot underflow
    power, rest = (prob / larger) ** (1 / temperature), ((1 - prob) / larger) ** (1 / temperature)
    return power / (power + rest)


def mutual_sharpening(
    probs: Sequence[Float[Tensor, "B O *S"]], temperature: float
) -> Float[Tensor, " B"]:
    """Return `sum over i != j of mean (p_i - sharpen(p_j))^2` of each sample.

    Args:
        probs: predictions of two or more decoders; none learns through its role as a target.
        temperature: of `sharpen_binary`, in (0, 1].
    """
    targets = [sharpen_binary(p.detach(), temperature) for p in probs]
    losses = [
        (p - target).square().flatten(1).mean(1)
        for i, p in enumerate(probs)
        for j, target in enumerate(targets)
        if i != j
    ]
    return torch.stack(losses).sum(0)


def rectified_consistency(
    probs: Sequence[Float[Tensor, "B O *S"]], output: Output
) -> Float[Tensor, " B"]:
    """Return the uncertainty-rectified consistency of several scales, per sample.

    With the mean prediction m and `v_k = KL(m || p_k)` per pixel (summed over the classes when
    nested), scale k costs `mean((m - p_k)^2 exp(-v_k)) / mean(exp(-v_k)) + mean(v_k)`, where the
    square is averaged over channels; the result is the mean over scales.

    Args:
        probs: predictions of two or more scales at one size; gradient flows into all of them.
        output: channel encoding.
    """
    mean = torch.stack(list(probs)).mean(0)
    losses = []
    for p in probs:
        divergence = _kl(mean, p, output).flatten(1)
        certain = torch.exp(-divergence)
        error = (mean - p).square().mean(1).flatten(1)
        rectified = (error * certain).mean(1) / (certain.mean(1) + EPS)
        losses.append(rectified + divergence.mean(1))
    return torch.stack(losses).mean(0)


def _kl(
    p: Float[Tensor, "B O *S"], q: Float[Tensor, "B O *S"], output: Output
) -> Float[Tensor, " B *S"]:
    """Per pixel KL(p || q) of a categorical distribution, or of F independent Bernoulli ones."""
    kl = p * (p.clamp_min(EPS).log() - q.clamp_min(EPS).log())
    if output == Output.NESTED:
        a, b = 1 - p, 1 - q
        kl = kl + a * (a.clamp_min(EPS).log() - b.clamp_min(EPS).log())
    return kl.sum(1)
