"""The networks of mutual learning: decoders on one encoder, or two networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from fedssl.config import ModelConfig
from fedssl.models import SegmentationModel
from fedssl.models.heads import start_from_prior
from fedssl.models.multi_decoder import (
    UPSAMPLING,
    MultiDecoderModel,
    MultiDecoderUNet,
    MultiOutput,
    decoder_parts,
    upsampling_of,
)
from fedssl.models.parts import shared_parts
from fedssl.models.two_networks import TwoNetworks
from fedssl.models.vnet import VNet
from fedssl.types import Task

__all__ = ["VNET_DEPTH", "Network", "Sharing", "all_outputs", "build_students", "student_parts"]

Network = Literal["unet", "vnet"]
Sharing = Literal["all", "private_decoder2", "two_networks"]

VNET_DEPTH = 4
"""Halvings of the V-Net, which has no other form."""


def build_students(
    config: ModelConfig, task: Task, *, network: Network, decoders: int, shared: Sharing
) -> SegmentationModel:
    """Return the networks that teach each other; weights come from torch's global generator.

    Args:
        config: width, depth, normalisation and dropout. The V-Net has one dropout rate,
            `dropout-bottleneck`, at both of its places.
        task: exclusive.
        network: `unet` on MONAI's blocks, or the `vnet` of the semi-supervised literature.
        decoders: how many; each upsamples in its own way.
        shared: `private_decoder2` keeps every decoder but the first at the site; `two_networks`
            shares no encoder, and both networks travel.
    """
    if shared == "two_networks":
        forms = iter(UPSAMPLING)
        return TwoNetworks(lambda: _network(config, task, network, (next(forms),)))
    model = _network(config, task, network, upsampling_of(decoders))
    if shared == "private_decoder2":
        model.private = tuple(range(1, decoders))
    return model


def student_parts(model: nn.Module) -> dict[str, list[str]]:
    """Return `shared`, and `private` where decoders stay at the site; found by module."""
    if isinstance(model, MultiDecoderModel):
        return decoder_parts(model, model.private)
    return shared_parts(model)


def all_outputs(model: SegmentationModel, image: Tensor) -> MultiOutput:
    """Return logits and features of every decoder or network for an image [B, C, *S]."""
    if isinstance(model, TwoNetworks):
        outputs = [network(image) for network in (model.first, model.second)]
        return MultiOutput([o.logits for o in outputs], [o.features for o in outputs])
    return cast("MultiDecoderModel", model).forward_all(image)


def _network(
    config: ModelConfig, task: Task, network: Network, upsampling: Sequence[str]
) -> MultiDecoderModel:
    model = _untrained(config, task, network, upsampling)
    start_from_prior(model, config.foreground_prior, task)
    return model


def _untrained(
    config: ModelConfig, task: Task, network: Network, upsampling: Sequence[str]
) -> MultiDecoderModel:
    shape = (task.spatial_dims, task.channels, task.out_channels)
    if network == "vnet":
        return VNet(
            *shape,
            width=config.width,
            upsampling=upsampling,
            norm=config.norm,
            dropout=config.dropout_bottleneck,
        )
    return MultiDecoderUNet(
        *shape,
        width=config.width,
        depth=config.depth,
        upsampling=upsampling,
        norm=config.norm,
        dropout_bottleneck=config.dropout_bottleneck,
        dropout_head=config.dropout_head,
    )
