"""The proximal term that keeps a site's weights near the ones it received."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["proximal_penalty"]


def proximal_penalty(
    parameters: Sequence[Tensor], received: Sequence[Tensor], mu: float
) -> Float[Tensor, ""]:
    """Return `mu / 2 * sum ||w - w_received||^2` (Li et al., MLSys 2020).

    Args:
        parameters: trained tensors, in the order of `received`.
        received: the same tensors as the coordinator sent them; no gradient.
        mu: at least 0.
    """
    squares = [(w - w0.detach()).square().sum() for w, w0 in zip(parameters, received, strict=True)]
    return mu / 2 * torch.stack(squares).sum()
