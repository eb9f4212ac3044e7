"""Weak and strong views of a batch: one affine for everything, then photometric operations.

An operation's random numbers come from a generator of its own, seeded from the caller's. So what
one operation draws does not depend on which others are switched off, on the size of the image or
on the device, and a call always advances the caller's generator by the same amount.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fedssl.config import AugmentConfig
from fedssl.data.augment_ops import PHOTOMETRIC, cut_field_of_view, cut_out
from fedssl.types import View

__all__ = [
    "augment_labeled",
    "augment_unlabeled",
    "identity_theta",
    "invert_theta",
    "random_theta",
    "warp",
]

Mode = Literal["linear", "nearest"]

# A new operation goes to the end: the position decides which seed a stream gets.
_STREAMS = (
    "geometry",
    "mixing",
    "gain",
    "offset",
    "contrast",
    "gamma",
    "bias",
    "blur",
    "noise",
    "cutout",
)


def augment_labeled(
    image: Tensor, label: Tensor, config: AugmentConfig, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return an augmented image and its label.

    Args:
        image: [B, C, *S] float, z-scored.
        label: [B, *S] int64; warped with nearest neighbour, background (0) from outside.
        config: magnitudes; `photometric_labeled` switches the photometric operations on.
        generator: on the CPU.
    """
    streams = _streams(generator)
    theta = random_theta(image, config, streams["geometry"])
    if _moves(config):
        grid = _grid(theta, image)
        image = _sample(image, grid, "linear")
        label = _sample(label[:, None], grid, "nearest")[:, 0]
    if config.photometric_labeled:
        image = _photometric(image, config, streams)
    if config.field_of_view > 0:
        # Labeled samples have no cutout: its stream is free, and no other one changes.
        image, label = cut_field_of_view(image, label, config.field_of_view, streams["cutout"])
    return image, label


def augment_unlabeled(
    image: Tensor, stored: Mapping[str, Tensor], config: AugmentConfig, generator: Generator
) -> tuple[dict[str, View], dict[str, Tensor]]:
    """Return a weak and a strong view that share their geometry, and the maps warped with them.

    Args:
        image: [B, C, *S] float, z-scored.
        stored: maps [B, M, *S]; warped with nearest neighbour, 0 from outside, dtype kept.
        config: magnitudes; cutout applies to the strong view only.
        generator: on the CPU.

    Returns:
        Views `weak` (geometry only) and `strong` (also photometric operations and cutout), and
        the warped maps.
    """
    streams = _streams(generator)
    theta = random_theta(image, config, streams["geometry"])
    maps = dict(stored)
    weak = image
    if _moves(config):
        grid = _grid(theta, image)
        weak = _sample(image, grid, "linear")
        maps = {name: _sample(value, grid, "nearest") for name, value in stored.items()}
    strong = _photometric(weak, config, streams)
    if config.cutout > 0:
        strong = cut_out(strong, config.cutout, 1.0, streams["cutout"])
    return {"weak": View(weak, theta), "strong": View(strong, theta)}, maps


def random_theta(image: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Return random affines [B, S, S+1] for `affine_grid`: flips, rotation, scale, translation.

    Volumes turn within the plane of their last two axes: slices are often thick, and turning
    across them would mix resolutions. Angles and scale are rigid in pixels, whatever the shape
    of the image. A scale above 1 shows the image larger.
    """
    batch, space = image.shape[0], image.shape[2:]
    dims = len(space)
    flips = torch.rand((batch, dims), generator=generator, dtype=torch.float64)
    angle, scale = torch.rand((2, batch), generator=generator, dtype=torch.float64) * 2 - 1
    shift = torch.rand((batch, dims), generator=generator, dtype=torch.float64) * 2 - 1
    angle = math.radians(config.rotate) * angle
    # Axes of theta are x (last axis of the image), y, z.
    linear = torch.eye(dims, dtype=torch.float64).repeat(batch, 1, 1)
    linear[:, 0, 0] = linear[:, 1, 1] = angle.cos()
    linear[:, 0, 1], linear[:, 1, 0] = -angle.sin(), angle.sin()
    linear = linear / (1 + config.scale * scale)[:, None, None]
    if config.flip:
        linear = linear * (1 - 2 * (flips < 0.5).double())[:, None, :]
    size = torch.tensor(tuple(space)[::-1], dtype=torch.float64)
    linear = linear * size / size[:, None]  # pixels to normalised coordinates and back
    theta = torch.cat([linear, 2 * config.translate * shift[:, :, None]], dim=2)
    return theta.to(image.device, torch.float32)


def identity_theta(image: Tensor) -> Tensor:
    """Return the affine [B, S, S+1] that leaves a batch [B, C, *S] where it is."""
    dims = image.ndim - 2
    return torch.eye(dims, dims + 1, device=image.device).repeat(image.shape[0], 1, 1)


def invert_theta(theta: Tensor) -> Tensor:
    """Return the affine [B, S, S+1] that undoes `theta`."""
    inverse = torch.linalg.inv(theta[:, :, :-1])
    return torch.cat([inverse, -inverse @ theta[:, :, -1:]], dim=2)


def warp(image: Tensor, theta: Tensor, mode: Mode = "linear") -> Tensor:
    """Return a batch seen through an affine; shape and dtype stay, gradients flow.

    Args:
        image: [B, C, *S] of any real dtype.
        theta: [B, S, S+1] from output to input positions, as `affine_grid` takes it.
        mode: `linear` for images and probabilities (the border is repeated outside), `nearest`
            for labels and stored maps (0 outside).
    """
    return _sample(image, _grid(theta, image), mode)


def _grid(theta: Tensor, image: Tensor) -> Tensor:
    size = [image.shape[0], 1, *image.shape[2:]]
    return F.affine_grid(theta.to(image.device), size, align_corners=False)


def _sample(image: Tensor, grid: Tensor, mode: Mode) -> Tensor:
    moved = F.grid_sample(
        image.to(grid.dtype),
        grid,
        mode="bilinear" if mode == "linear" else "nearest",
        padding_mode="border" if mode == "linear" else "zeros",
        align_corners=False,
    )
    return moved.to(image.dtype)


def _moves(config: AugmentConfig) -> bool:
    """Whether geometry is on; if not, pixels are passed through untouched."""
    return config.flip or max(config.rotate, config.scale, config.translate) > 0


def _streams(generator: Generator) -> dict[str, Generator]:
    seeds = torch.randint(2**62, (len(_STREAMS),), generator=generator).tolist()
    return {
        name: torch.Generator().manual_seed(seed)
        for name, seed in zip(_STREAMS, seeds, strict=True)
    }


def _photometric(image: Tensor, config: AugmentConfig, streams: Mapping[str, Generator]) -> Tensor:
    for name, operation in PHOTOMETRIC.items():
        strength = float(getattr(config, name))
        if strength > 0 and config.probability > 0:
            image = operation(image, strength, config.probability, streams[name])
    return image
