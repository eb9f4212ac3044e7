"""The V-Net of the semi-supervised literature, with a shared encoder and several decoders.

Not the original V-Net (Milletari et al., 3DV 2016): no residuals, batch normalisation, additive
skips; five levels of 1-2-3-3-3 convolutions. Two decoders as in mutual learning (Su et al.,
Medical Image Analysis 2024): transposed convolutions, and nearest upsampling with a 3x3(x3)
convolution. A third upsamples linearly, as in MC-Net+ (Wu et al., Medical Image Analysis 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from typing import Any, cast

import torch
from monai.networks.layers.factories import Conv, Dropout
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn
from torch.nn import functional as nnf
from typing_extensions import override

from fedssl.models.multi_decoder import UPSAMPLING, MultiDecoderModel, check_upsampling

__all__ = ["NearestUpConv", "VNet", "fold_nearest"]

_ENCODER_CONVS = (1, 2, 3, 3, 3)
_DECODER_CONVS = (3, 3, 2, 1)
_NORMS = ("batch", "group", "instance")


def fold_nearest(weight: Tensor) -> Tensor:
    """Return the transposed-convolution kernel of nearest x2 upsampling and a 3-wide convolution.

    On the upsampled grid two of three taps always meet the same input, so per axis the kernel
    [w0, w1, w2] equals a transposed convolution with [w2, w1 + w2, w0 + w1, w0], stride 2,
    padding 1: 8 instead of 27 products per output voxel in 3D, zero padding included.

    Args:
        weight: [O, I, 3, 3] or [O, I, 3, 3, 3].

    Returns:
        [I, O, 4, 4] or [I, O, 4, 4, 4]; differentiable.
    """
    for axis in range(2, weight.ndim):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack((w2, w1 + w2, w0 + w1, w0), dim=axis)
    return weight.transpose(0, 1)


class NearestUpConv(nn.Module):
    """Nearest x2 upsampling and a 3x3(x3) convolution, computed as one transposed convolution.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        fold: False computes both steps as written; parameters are the same.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, fold: bool = True
    ) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 3, padding=1)
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, O, *2S] for x [B, I, *S]."""
        if not self.fold:
            return cast("Tensor", self.conv(nnf.interpolate(x, scale_factor=2, mode="nearest")))
        # Sums of weights in full precision; autocast rounds only the folded kernel.
        kernel = fold_nearest(self.conv.weight)
        if x.ndim == 4:
            return nnf.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)
        return nnf.conv_transpose3d(x, kernel, self.conv.bias, stride=2, padding=1)


class _Encoder(nn.Module):
    def __init__(self, dims: int, in_channels: int, width: int, norm: str) -> None:
        super().__init__()
        plan = [width * 2**level for level in range(len(_ENCODER_CONVS))]
        inputs = [in_channels, *plan[1:]]
        self.levels = nn.ModuleList(
            _convs(dims, i, o, count, norm)
            for i, o, count in zip(inputs, plan, _ENCODER_CONVS, strict=True)
        )
        self.downs = nn.ModuleList(
            _block(Conv[Conv.CONV, dims](i, o, 2, stride=2), dims, o, norm)
            for i, o in pairwise(plan)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for level, block in enumerate(self.levels):
            x = block(self.downs[level - 1](x) if level else x)
            features.append(x)
        return features


class _Decoder(nn.Module):
    def __init__(
        self, dims: int, out_channels: int, width: int, kind: str, norm: str, dropout: float
    ) -> None:
        super().__init__()
        plan = [width * 2**level for level in reversed(range(len(_ENCODER_CONVS)))]
        self.ups = nn.ModuleList(
            _block(_up(kind, dims, i, o), dims, o, norm) for i, o in pairwise(plan)
        )
        self.levels = nn.ModuleList(
            _convs(dims, o, o, count, norm)
            for o, count in zip(plan[1:], _DECODER_CONVS, strict=True)
        )
        self.dropout = Dropout[Dropout.DROPOUT, dims](dropout)
        self.head = Conv[Conv.CONV, dims](width, out_channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        *skips, x = levels
        for up, block, skip in zip(self.ups, self.levels, reversed(skips), strict=True):
            x = block(up(x) + skip)
        features = self.dropout(x)
        return self.head(features), features


class VNet(MultiDecoderModel):
    """Shared encoder, several decoders; 12 347 716 parameters as published (3D, two decoders).

    Weights come from PyTorch's default initialisation. Input sides must be multiples of 16.

    Args:
        spatial_dims: 3 as published, or 2.
        in_channels: image channels C.
        out_channels: channels of the logits.
        width: channels of the first level; also `feature_channels`.
        upsampling: form of each decoder: `transposed`, `nearest` (with a convolution), `linear`
            (corners aligned, with a convolution).
        norm: `batch` as published, `group` (up to 16 groups) or `instance` (affine).
        dropout: probability that a channel of the deepest level, and of a decoder's features,
            is dropped.
        fold: compute nearest upsampling and its convolution as one transposed convolution.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        *,
        width: int = 16,
        upsampling: Sequence[str] = UPSAMPLING[:2],
        norm: str = "batch",
        dropout: float = 0.5,
        fold: bool = True,
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            msg = f"norm {norm!r} is not one of {', '.join(_NORMS)}"
            raise ValueError(msg)
        self.feature_channels = width
        self.stride = 2 ** (len(_ENCODER_CONVS) - 1)
        self.encoder = _Encoder(spatial_dims, in_channels, width, norm)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout)
        self.decoders = nn.ModuleList(
            _Decoder(spatial_dims, out_channels, width, kind, norm, dropout)
            for kind in check_upsampling(upsampling)
        )
        self.fold(fold)

    def fold(self, enabled: bool) -> None:
        """Choose how nearest upsampling is computed; weights and state dict do not change."""
        for module in self.modules():
            if isinstance(module, NearestUpConv):
                module.fold = enabled

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        return cast("list[Tensor]", self.encoder(x))


def _up(kind: str, dims: int, in_channels: int, out_channels: int) -> nn.Module:
    if kind == "transposed":
        return cast("nn.Module", Conv[Conv.CONVTRANS, dims](in_channels, out_channels, 2, stride=2))
    if kind == "nearest":
        return NearestUpConv(dims, in_channels, out_channels)
    mode = "trilinear" if dims == 3 else "bilinear"
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode=mode, align_corners=True),
        Conv[Conv.CONV, dims](in_channels, out_channels, 3, padding=1),
    )


def _block(conv: nn.Module, dims: int, channels: int, norm: str) -> nn.Sequential:
    options: dict[str, dict[str, Any]] = {
        "batch": {},
        "group": {"num_groups": gcd(16, channels)},
        "instance": {"affine": True},
    }
    return nn.Sequential(
        conv, get_norm_layer((norm, options[norm]), dims, channels), nn.ReLU(inplace=True)
    )


def _convs(dims: int, in_channels: int, out_channels: int, count: int, norm: str) -> nn.Sequential:
    inputs = (in_channels, *[out_channels] * (count - 1))
    return nn.Sequential(
        *(
            _block(Conv[Conv.CONV, dims](i, out_channels, 3, padding=1), dims, out_channels, norm)
            for i in inputs
        )
    )
