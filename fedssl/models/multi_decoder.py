"""Networks with one encoder and several decoders that differ in how they upsample.

Two decoders that see the same features but upsample differently disagree where the image is hard;
mutual learning and cross supervision live on that disagreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Any, cast

from monai.networks.layers.factories import Conv, Dropout
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import Tensor, nn
from typing_extensions import override

from fedssl.models.base import SegmentationModel
from fedssl.models.unet import channel_plan
from fedssl.types import SegOutput

__all__ = [
    "UPSAMPLING",
    "MultiDecoderModel",
    "MultiDecoderUNet",
    "MultiOutput",
    "decoder_parts",
    "two_decoder_unet",
    "upsampling_of",
]

UPSAMPLING = ("transposed", "nearest", "linear")
"""Forms of a decoder, in the order in which they are added."""

_ACTIVATION = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})


@dataclass(frozen=True, slots=True)
class MultiOutput:
    """What a network with N decoders returns.

    Args:
        logits: N tensors [B, out_channels, *S].
        features: N tensors [B, D, *S], the input of each decoder's last 1x1 convolution.
    """

    logits: list[Tensor]
    features: list[Tensor]


class MultiDecoderModel(SegmentationModel):
    """A network whose call runs the first decoder only, as evaluation and inference do.

    Attributes:
        encoder: returns what every decoder reads.
        dropout: of the deepest level, shared by the decoders.
        decoders: each maps the encoder's output to (logits, features).
        private: positions of the decoders that never travel; see `decoder_parts`.
    """

    encoder: nn.Module
    decoders: nn.ModuleList
    dropout: nn.Module
    private: tuple[int, ...] = ()

    @override
    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        logits, features = self.decoders[0](self._dropped(encoded))
        return SegOutput(logits, features)

    def forward_all(self, x: Tensor) -> MultiOutput:
        """Return logits and features of every decoder; encoder and bottleneck dropout run once."""
        self.check_size(x)
        levels = self._dropped(self.encode(x))
        outputs = [decoder(levels) for decoder in self.decoders]
        return MultiOutput([z for z, _ in outputs], [f for _, f in outputs])

    def _dropped(self, encoded: Sequence[Tensor]) -> list[Tensor]:
        *skips, deepest = encoded
        return [*skips, self.dropout(deepest)]


class _UNetDecoder(nn.Module):
    """Upsampling path, head dropout and last convolution of one decoder."""

    def __init__(
        self,
        spatial_dims: int,
        plan: Sequence[int],
        out_channels: int,
        upsampling: str,
        norm: tuple[str, dict[str, Any]],
        dropout_head: float,
    ) -> None:
        super().__init__()
        forms: dict[str, dict[str, Any]] = {
            "transposed": {"upsample": "deconv"},
            "nearest": {
                "upsample": "nontrainable",
                "interp_mode": "nearest",
                "align_corners": None,
            },
            "linear": {"upsample": "nontrainable", "interp_mode": "linear"},
        }
        self.levels = nn.ModuleList(
            UpCat(spatial_dims, deep, fine, fine, _ACTIVATION, norm, bias=True, **forms[upsampling])
            for deep, fine in zip(plan[:0:-1], plan[-2::-1], strict=True)
        )
        self.dropout = nn.Dropout(dropout_head)
        self.head = Conv[Conv.CONV, spatial_dims](plan[0], out_channels, kernel_size=1)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and features of the encoder's levels, finest first."""
        *skips, x = levels
        for block, skip in zip(self.levels, reversed(skips), strict=True):
            x = block(x, skip)
        features = self.dropout(x)
        return self.head(features), features


class MultiDecoderUNet(MultiDecoderModel):
    """U-Net on MONAI's blocks with a shared encoder; decoders differ in upsampling.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels C.
        out_channels: channels of the logits.
        width: channels of the first level; also `feature_channels`.
        depth: number of halvings; inputs must be multiples of `2**depth`.
        upsampling: form of each decoder: `transposed` convolution, `nearest` after a 1x1
            convolution, or `linear` interpolation.
        norm: `instance` or `batch` (both affine), or `group` (up to 8 groups).
        dropout_bottleneck: probability that a channel of the deepest level is dropped.
        dropout_head: probability that an element before a last convolution is dropped.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        depth: int = 4,
        upsampling: Sequence[str] = UPSAMPLING[:2],
        norm: str = "batch",
        dropout_bottleneck: float = 0.5,
        dropout_head: float = 0.1,
    ) -> None:
        super().__init__()
        layer = _norm_layer(norm, width)
        plan = channel_plan(width, depth)
        self.feature_channels = width
        self.stride = 2**depth
        self.encoder = nn.ModuleList(
            [TwoConv(spatial_dims, in_channels, width, _ACTIVATION, layer, bias=True)]
        )
        self.encoder.extend(
            Down(spatial_dims, fine, deep, _ACTIVATION, layer, bias=True)
            for fine, deep in pairwise(plan)
        )
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout_bottleneck)
        self.decoders = nn.ModuleList(
            _UNetDecoder(spatial_dims, plan, out_channels, kind, layer, dropout_head)
            for kind in check_upsampling(upsampling)
        )

    @override
    def encode(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        for block in cast("nn.ModuleList", self.encoder):
            x = block(x)
            levels.append(x)
        return levels


def two_decoder_unet(
    spatial_dims: int, in_channels: int, out_channels: int, *, decoders: int = 2, **options: Any
) -> MultiDecoderUNet:
    """Return a U-Net whose first `decoders` forms of `UPSAMPLING` share an encoder.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels C.
        out_channels: channels of the logits.
        decoders: 1 to 3.
        options: `width`, `depth`, `norm`, `dropout_bottleneck`, `dropout_head`.
    """
    return MultiDecoderUNet(
        spatial_dims, in_channels, out_channels, upsampling=upsampling_of(decoders), **options
    )


def upsampling_of(decoders: int) -> tuple[str, ...]:
    """Return the forms of that many decoders.

    Raises:
        ValueError: there are not that many forms.
    """
    if not 1 <= decoders <= len(UPSAMPLING):
        msg = f"{decoders} decoders; 1 to {len(UPSAMPLING)} are available: {', '.join(UPSAMPLING)}"
        raise ValueError(msg)
    return UPSAMPLING[:decoders]


def check_upsampling(upsampling: Sequence[str]) -> tuple[str, ...]:
    """Return the forms of the decoders, or raise ValueError if one is unknown."""
    unknown = [kind for kind in upsampling if kind not in UPSAMPLING]
    if unknown or not upsampling:
        msg = f"upsampling {list(upsampling)}: choose one or more of {', '.join(UPSAMPLING)}"
        raise ValueError(msg)
    return tuple(upsampling)


def decoder_parts(model: MultiDecoderModel, private: Sequence[int] = ()) -> dict[str, list[str]]:
    """Return the names of the state by part: `shared`, and `private` if decoders stay at a site.

    Found through the modules themselves: equal names in two decoders may mean different layers.

    Args:
        model: network with decoders.
        private: positions of the decoders that never travel; not the first, which is evaluated.

    Raises:
        ValueError: the first decoder, or one that does not exist, is to be private.
    """
    if any(not 0 < i < len(model.decoders) for i in private):
        msg = (
            f"decoders {list(private)} cannot be private: choose from 1..{len(model.decoders) - 1}"
        )
        raise ValueError(msg)
    kept = {id(t) for i in private for t in _state(model.decoders[i]).values()}
    state = _state(model)
    parts = {"shared": [name for name, tensor in state.items() if id(tensor) not in kept]}
    if private:
        parts["private"] = [name for name, tensor in state.items() if id(tensor) in kept]
    return parts


def _state(module: nn.Module) -> dict[str, Tensor]:
    # keep_vars hands out the tensors themselves, so that their identity says whose they are.
    return module.state_dict(keep_vars=True)


def _norm_layer(norm: str, width: int) -> tuple[str, dict[str, Any]]:
    layers: dict[str, tuple[str, dict[str, Any]]] = {
        "instance": ("instance", {"affine": True}),
        "batch": ("batch", {}),
        "group": ("group", {"num_groups": gcd(8, width)}),
    }
    if norm not in layers:
        msg = f"norm {norm!r} is not one of {', '.join(layers)}"
        raise ValueError(msg)
    return layers[norm]
