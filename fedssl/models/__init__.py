"""Segmentation networks that return logits and features."""

from __future__ import annotations

from fedssl.models.base import SegmentationModel
from fedssl.models.multi_decoder import (
    MultiDecoderModel,
    MultiDecoderUNet,
    MultiOutput,
    two_decoder_unet,
)
from fedssl.models.parts import (
    channels_last,
    norm_names,
    set_stochastic,
    shared_parts,
    stochastic,
)
from fedssl.models.pyramid import PyramidUNet
from fedssl.models.two_networks import TwoNetworks
from fedssl.models.unet import UNet, build_unet
from fedssl.models.vnet import VNet

__all__ = [
    "MultiDecoderModel",
    "MultiDecoderUNet",
    "MultiOutput",
    "PyramidUNet",
    "SegmentationModel",
    "TwoNetworks",
    "UNet",
    "VNet",
    "build_unet",
    "channels_last",
    "norm_names",
    "set_stochastic",
    "shared_parts",
    "stochastic",
    "two_decoder_unet",
]
