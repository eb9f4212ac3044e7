"""Mean and spread of stochastic passes: what a network says, and how much it doubts it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fedssl.functional.labels import foreground_probabilities
from fedssl.types import Output

__all__ = ["Passes", "stochastic_statistics"]


class Passes(NamedTuple):
    """Statistics of T stochastic passes; probabilities in [0, 1], uncertainty >= 0."""

    mean_prob: Float[Tensor, "B F *S"]
    uncertainty: Float[Tensor, "B F *S"]


def stochastic_statistics(
    logits: Iterable[Float[Tensor, "B O *S"]],
    output: Output,
    *,
    temperature: float = 2.0,
    group: int | None = None,
) -> Passes:
    """Return mean and spread of the foreground probabilities over stochastic passes.

    The passes are consumed one by one (Welford's update), so T of them cost the memory of one,
    and identical passes give an uncertainty of exactly 0.

    Args:
        logits: T >= 1 passes over the same batch; a generator will do.
        output: channel encoding.
        temperature: divides the logits for the uncertainty only, as published.
        group: this many passes in a row look at the same; None: all do.

    Returns:
        `p = mean_t prob(z_t)` and `u = std_t prob(z_t / temperature)` within the G groups, with
        divisor T - G; u = 0 for groups of one.

    Raises:
        ValueError: there is no pass.
    """
    count = groups = seen = 0
    mean_prob = mean = spread = torch.empty(0)
    for z in logits:
        full = z if z.dtype == torch.float64 else z.float()
        prob = foreground_probabilities(full, output)
        flat = foreground_probabilities(full, output, temperature)
        if count == 0:
            mean_prob, spread = torch.zeros_like(prob), torch.zeros_like(flat)
        if count == 0 or seen == group:
            groups, seen, mean = groups + 1, 0, torch.zeros_like(flat)
        count, seen = count + 1, seen + 1
        mean_prob = prob if count == 1 else mean_prob + (prob - mean_prob) / count
        delta = flat - mean
        mean = flat if seen == 1 else mean + delta / seen
        spread = spread + delta * (flat - mean)  # 0 for the first of a group
    if count == 0:
        raise ValueError("Uncertainty needs at least one pass, got none.")
    return Passes(mean_prob, (spread / max(count - groups, 1)).clamp_min(0).sqrt())
