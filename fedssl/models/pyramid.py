"""A U-Net that also predicts from the coarser levels of its decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as nnf
from typing_extensions import override

from fedssl.config import ModelConfig
from fedssl.models.base import SegmentationModel
from fedssl.models.heads import start_from_prior
from fedssl.models.unet import build_unet, channel_plan
from fedssl.types import SegOutput, Task

__all__ = ["PyramidUNet"]


class PyramidUNet(SegmentationModel):
    """U-Net with a 1x1 convolution on each of its finest decoder levels.

    A call returns the finest prediction only, as evaluation does.

    Args:
        config: of the U-Net.
        task: decides dimensions and channels.
        scales: predictions, at least 1; no more than the U-Net has decoder levels.
    """

    def __init__(self, config: ModelConfig, task: Task, scales: int = 4) -> None:
        super().__init__()
        self.network = build_unet(config, task)
        self.feature_channels, self.stride = self.network.feature_channels, self.network.stride
        plan = channel_plan(config.width, config.depth)
        self.heads = nn.ModuleList(
            Conv[Conv.CONV, task.spatial_dims](plan[level], task.out_channels, kernel_size=1)
            for level in range(1, min(scales, config.depth))
        )
        start_from_prior(self, config.foreground_prior, task)
        self._mode = "bilinear" if task.spatial_dims == 2 else "trilinear"

    @override
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        return self.network.encode(x)

    @override
    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        return self.network.decode(encoded)

    def scales(self, x: Tensor) -> list[Tensor]:
        """Return logits [B, out_channels, *S] of every scale, resized to the input, finest first.

        Raises:
            ValueError: a side of `x` is not a multiple of `stride`.
        """
        self.check_size(x)
        net = self.network
        skips = list(net.encode(x))
        feature, levels = net.dropout(skips.pop()), []
        for up, block in zip(net.up, net.decoder, strict=True):
            feature = block(torch.cat((skips.pop(), up(feature)), dim=1))
            levels.append(feature)
        finest = net.head(net.head_dropout(levels[-1]))
        coarse = [head(f) for head, f in zip(self.heads, levels[-2::-1], strict=False)]
        size = tuple(x.shape[2:])
        return [finest] + [
            nnf.interpolate(z, size, mode=self._mode, align_corners=False) for z in coarse
        ]
