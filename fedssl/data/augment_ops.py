"""Photometric operations on batches: contrast, blur, noise and the like. Positions never move.

Every operation has the signature `op(image, strength, probability, rng)`: `image` is [B, C, *S]
float and z-scored, `strength` the magnitude of `AugmentConfig`, `rng` a generator on the CPU. Each
sample is changed with `probability` and by its own random amount; the input is never written to.
All random numbers are drawn on the CPU, so a seed means the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = [
    "PHOTOMETRIC",
    "Operation",
    "adjust_contrast",
    "adjust_gamma",
    "blur_gaussian",
    "cut_field_of_view",
    "cut_out",
    "draw",
    "gain_channels",
    "illuminate",
    "mix_channels",
    "noise_gaussian",
    "offset_channels",
]

Operation = Callable[[Tensor, float, float, Generator], Tensor]

_EPS = 1e-6
_FIELD_ORDER = 3
"""Cosines per axis in the bias field: half a period, one, and one and a half per image."""


def draw(rng: Generator, shape: tuple[int, ...], low: float, high: float, like: Tensor) -> Tensor:
    """Return uniform numbers in [low, high), drawn on the CPU and moved to where `like` lies."""
    return (low + (high - low) * torch.rand(shape, generator=rng)).to(like)


def _per_sample(values: Tensor, image: Tensor) -> Tensor:
    """Add axes to [B] or [B, C] until it broadcasts against [B, C, *S]."""
    return values.reshape(*values.shape, *(1,) * (image.ndim - values.ndim))


def _choose(changed: Tensor, image: Tensor, probability: float, rng: Generator) -> Tensor:
    """Take `changed` for a share `probability` of the samples and `image` for the rest."""
    chosen = (torch.rand(image.shape[0], generator=rng) < probability).to(image.device)
    return torch.where(_per_sample(chosen, image), changed, image)


def _space(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


def _unit_range(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each channel of each sample rescaled to [0, 1], its minimum and its range."""
    flat = image.flatten(2)
    low = _per_sample(flat.amin(-1), image)
    span = (_per_sample(flat.amax(-1), image) - low).clamp_min(_EPS)
    return (image - low) / span, low, span


def mix_channels(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Blend every channel with a random convex mix of all channels, with share U(0, strength)."""
    batch, channels = image.shape[:2]
    share = draw(rng, (batch, 1, 1), 0.0, strength, image)
    # Normalised exponentials are uniform on the simplex (a flat Dirichlet distribution).
    weights = -draw(rng, (batch, channels, channels), _EPS, 1.0, image).log() + _EPS
    mix = (1 - share) * torch.eye(channels).to(image) + share * weights / weights.sum(2, True)
    mixed = torch.bmm(mix, image.flatten(2)).reshape(image.shape)
    return _choose(mixed, image, probability, rng) if channels > 1 else image


def gain_channels(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Multiply every channel by U(1 - strength, 1 + strength)."""
    gain = draw(rng, tuple(image.shape[:2]), 1 - strength, 1 + strength, image)
    return _choose(image * _per_sample(gain, image), image, probability, rng)


def offset_channels(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Add U(-strength, strength) to every channel."""
    offset = draw(rng, tuple(image.shape[:2]), -strength, strength, image)
    return _choose(image + _per_sample(offset, image), image, probability, rng)


def adjust_contrast(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Stretch about each channel's mean by U(1 - strength, 1 + strength); the mean stays."""
    factor = _per_sample(draw(rng, (image.shape[0],), 1 - strength, 1 + strength, image), image)
    mean = image.mean(_space(image), keepdim=True)
    return _choose(mean + factor * (image - mean), image, probability, rng)


def adjust_gamma(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Raise intensities, rescaled to [0, 1], to exp(U(-strength, strength)); the range stays."""
    exponent = draw(rng, (image.shape[0],), -strength, strength, image).exp()
    unit, low, span = _unit_range(image)
    return _choose(low + span * unit.pow(_per_sample(exponent, image)), image, probability, rng)


def illuminate(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Multiply intensities, rescaled to [0, 1], by a smooth field in exp(+-U(0, strength)).

    The field's logarithm is a random sum of products of a few cosines per axis, divided by its
    largest value. It models uneven light of a camera and the bias field of a coil.
    """
    space = image.shape[2:]
    shape = (image.shape[0], *(_FIELD_ORDER + 1 for _ in space))
    field = torch.randn(shape, generator=rng).to(image)
    field.flatten(1)[:, 0] = 0  # the constant term would be a gain
    for size in space:
        position = (torch.arange(size) + 0.5) / size
        basis = torch.cos(math.pi * torch.arange(_FIELD_ORDER + 1)[:, None] * position)
        field = torch.tensordot(field, basis.to(image), dims=([1], [0]))
    field = field / _per_sample(field.flatten(1).abs().amax(1).clamp_min(_EPS), field)
    amplitude = _per_sample(draw(rng, (image.shape[0],), 0.0, strength, image), field)
    unit, low, span = _unit_range(image)
    lit = low + span * unit * (amplitude * field).exp()[:, None]
    return _choose(lit, image, probability, rng)


def blur_gaussian(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Convolve every sample with its own Gaussian, sigma U(0, strength) pixels, along all axes."""
    radius = math.ceil(3 * strength)
    sigma = draw(rng, (image.shape[0], 1), 0.0, strength, image).clamp_min(1e-3)
    offsets = torch.arange(-radius, radius + 1).to(image)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    smooth = image
    for axis in _space(image):
        smooth = _filter_axis(smooth, kernel, axis)
    return _choose(smooth, image, probability, rng)


def _filter_axis(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Filter [B, C, *S] along one axis with a symmetric kernel [B, 2r+1] of each sample's own.

    Sums of shifted views are several times faster on a CPU than a convolution with B * C groups.
    """
    radius, size = kernel.shape[1] // 2, image.shape[axis]
    padding = [0] * (2 * (image.ndim - 2))
    padding[2 * (image.ndim - 1 - axis)] = padding[2 * (image.ndim - 1 - axis) + 1] = radius
    padded = F.pad(image, padding, mode="replicate")
    total = image * _per_sample(kernel[:, radius], image)
    for step in range(1, radius + 1):
        pair = padded.narrow(axis, radius - step, size) + padded.narrow(axis, radius + step, size)
        total.addcmul_(pair, _per_sample(kernel[:, radius + step], image))
    return total


def noise_gaussian(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Add white Gaussian noise, sigma U(0, strength) per sample."""
    sigma = _per_sample(draw(rng, (image.shape[0],), 0.0, strength, image), image)
    noise = torch.randn(image.shape, generator=rng).to(image)
    return _choose(torch.addcmul(image, sigma, noise), image, probability, rng)


def cut_out(image: Tensor, strength: float, probability: float, rng: Generator) -> Tensor:
    """Fill one box per sample with its channel means (DeVries and Taylor, arXiv:1708.04552).

    Each side is U(0, strength) of the image's; the box lies inside the image.
    """
    inside = torch.ones((image.shape[0], 1, *(1 for _ in image.shape[2:]))).to(image).bool()
    for axis in _space(image):
        side = draw(rng, (image.shape[0], 1), 0.0, strength, image)
        start = draw(rng, (image.shape[0], 1), 0.0, 1.0, image) * (1 - side)
        position = ((torch.arange(image.shape[axis]) + 0.5) / image.shape[axis]).to(image)
        covered = (position >= start) & (position < start + side)
        shape = [image.shape[0]] + [1] * (image.ndim - 1)
        shape[axis] = image.shape[axis]
        inside = inside & covered.reshape(shape)
    erased = torch.where(inside, image.mean(_space(image), keepdim=True), image)
    return _choose(erased, image, probability, rng)


def cut_field_of_view(
    image: Tensor, label: Tensor, probability: float, rng: Generator
) -> tuple[Tensor, Tensor]:
    """End samples at the edge of a round field of view; outside is one colour, and background.

    A network that has only seen the border of one camera or coil may take that of another for a
    thin structure. Here the edge is a step, nearly straight or bent, up or down.

    Args:
        image: [B, C, *S] float, z-scored.
        label: [B, *S] integers.
        probability: of each sample to be cut.
        rng: on the CPU.

    Returns:
        Image and label. In units of the image's sides, the edge passes the centre at U(0, 1/2) in a
        random direction, with a radius from 1/2 to 4. Outside, every channel has the sample's
        U(-4, 2) plus its own normal deviation of 0.4.
    """
    batch, channels, *space = image.shape
    direction = torch.randn((batch, len(space)), generator=rng)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(_EPS)
    distance = draw(rng, (batch, 1), 0.0, 0.5, direction)
    radius = 0.5 * draw(rng, (batch, 1), 0.0, math.log(8), direction).exp()
    centre = direction * (distance - radius)
    axes = [(torch.arange(size) + 0.5) / size - 0.5 for size in space]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    squares = (position - _per_sample(centre, image)).square().sum(1)
    chosen = torch.rand(batch, generator=rng) < probability
    outside = squares > _per_sample(radius[:, 0].square(), squares)
    outside = (outside & _per_sample(chosen, squares)).to(image.device)
    level = draw(rng, (batch, 1), -4.0, 2.0, image)
    colour = level + 0.4 * torch.randn((batch, channels), generator=rng).to(image)
    cut = torch.where(outside[:, None], _per_sample(colour, image), image)
    return cut, torch.where(outside, torch.zeros_like(label), label)


PHOTOMETRIC: dict[str, Operation] = {
    "mixing": mix_channels,
    "gain": gain_channels,
    "offset": offset_channels,
    "contrast": adjust_contrast,
    "gamma": adjust_gamma,
    "bias": illuminate,
    "blur": blur_gaussian,
    "noise": noise_gaussian,
}
"""Operations by their key in `AugmentConfig`, in the order in which they are applied."""
