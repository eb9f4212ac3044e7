"""Segmentation networks that return logits and features."""

from __future__ import annotations

from fedssl.models.base import SegmentationModel
from fedssl.models.parts import norm_names, set_stochastic, shared_parts, stochastic
from fedssl.models.unet import UNet, build_unet

__all__ = [
    "SegmentationModel",
    "UNet",
    "build_unet",
    "norm_names",
    "set_stochastic",
    "shared_parts",
    "stochastic",
]
