"""U-Net in 2D and 3D, built from MONAI's convolution blocks.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015; with normalisation, leaky ReLU, and the two dropout places of DPL (Chen et al.,
MICCAI 2021): at the bottleneck and before the last 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any, cast

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv, Dropout, Pool
from torch import Tensor, nn
from typing_extensions import override

from fedssl.config import ModelConfig
from fedssl.errors import ConfigError, DataError
from fedssl.models.base import SegmentationModel
from fedssl.models.heads import start_from_prior
from fedssl.types import SegOutput, Task

__all__ = ["UNet", "build_unet", "channel_plan"]

_SLOPE = 0.01
_LARGEST = 16
"""Deepest levels stay at this multiple of the width."""


def channel_plan(width: int, depth: int) -> tuple[int, ...]:
    """Return the channels of levels 0..depth: `width * 2^level`, capped at 16 times the width."""
    return tuple(width * min(2**level, _LARGEST) for level in range(depth + 1))


class UNet(SegmentationModel):
    """Encoder and decoder with skip connections; two 3x3(x3) convolutions per level.

    Activations run in place, which is safe because normalisation keeps its own input.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels C.
        out_channels: channels of the logits.
        width: channels of the first level; also `feature_channels`.
        depth: number of halvings; inputs must be multiples of `2**depth`.
        norm: `instance` or `batch` (both affine), or `group` (up to 8 groups).
        dropout_bottleneck: probability that a channel of the deepest level is dropped.
        dropout_head: probability that an element before the last convolution is dropped.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        width: int = 16,
        depth: int = 4,
        norm: str = "instance",
        dropout_bottleneck: float = 0.5,
        dropout_head: float = 0.1,
    ) -> None:
        super().__init__()
        plan = channel_plan(width, depth)
        layer = _norm_layer(norm, width)
        self.feature_channels = width
        self.stride = 2**depth
        # Instance norm has no statistics over a single pixel, and training would fail on it.
        self._smallest = 2 * self.stride if norm == "instance" else self.stride
        inputs = (in_channels, *plan[:-1])
        self.encoder = nn.ModuleList(
            _two_convs(spatial_dims, i, o, layer) for i, o in zip(inputs, plan, strict=True)
        )
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=2)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout_bottleneck)
        levels = range(depth - 1, -1, -1)
        self.up = nn.ModuleList(
            Conv[Conv.CONVTRANS, spatial_dims](plan[i + 1], plan[i], kernel_size=2, stride=2)
            for i in levels
        )
        self.decoder = nn.ModuleList(
            _two_convs(spatial_dims, 2 * plan[i], plan[i], layer) for i in levels
        )
        self.head_dropout = nn.Dropout(dropout_head)
        self.head = Conv[Conv.CONV, spatial_dims](width, out_channels, kernel_size=1)

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        if max(x.shape[2:]) < self._smallest:
            raise DataError(
                f"An input of {tuple(x.shape[2:])} pixels, padded, is too small: instance norm at "
                f"stride {self.stride} needs one side of at least {self._smallest}. Look at the "
                "image's size and spacing, or train with a smaller model.depth or a larger "
                "image-size."
            )
        levels: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            levels.append(x)
        return levels

    @override
    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        skips = list(encoded)
        x = self.dropout(skips.pop())
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat((skips.pop(), up(x)), dim=1))
        features = self.head_dropout(x)
        return SegOutput(self.head(features), features)


def build_unet(config: ModelConfig, task: Task) -> UNet:
    """Return the network of a run; its weights are drawn from torch's global generator."""
    network = UNet(
        task.spatial_dims,
        task.channels,
        task.out_channels,
        width=config.width,
        depth=config.depth,
        norm=config.norm,
        dropout_bottleneck=config.dropout_bottleneck,
        dropout_head=config.dropout_head,
    )
    start_from_prior(network, config.foreground_prior, task)
    return network


def _norm_layer(norm: str, width: int) -> tuple[str, dict[str, Any]]:
    layers = {
        "instance": ("instance", {"affine": True}),
        "batch": ("batch", {}),
        "group": ("group", {"num_groups": gcd(8, width)}),
    }
    if norm not in layers:
        raise ConfigError(f"Key 'model.norm': {norm!r} is not one of {', '.join(layers)}.")
    return cast("tuple[str, dict[str, Any]]", layers[norm])


def _two_convs(
    spatial_dims: int, inputs: int, outputs: int, norm: tuple[str, dict[str, Any]]
) -> nn.Sequential:
    def conv(channels: int) -> nn.Module:
        return cast(
            "nn.Module",
            Convolution(
                spatial_dims,
                channels,
                outputs,
                norm=norm,
                act=("leakyrelu", {"negative_slope": _SLOPE, "inplace": True}),
                bias=False,  # the normalisation that follows has its own
            ),
        )

    return nn.Sequential(conv(inputs), conv(outputs))
