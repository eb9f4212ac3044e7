"""The quality predictor: image and mask in, predicted Dice of each foreground class out.

Abhishek and Hamarneh (arXiv 2606.01753, 2026) use an ImageNet ResNet-18 whose first convolution
takes the mask as an extra channel. The default here is a small network without pretrained weights
and without batch statistics, since it is trained and averaged over sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import cast

import torch
from monai.networks.nets.resnet import resnet18
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedssl.errors import ConfigError

__all__ = ["BACKBONES", "QualityNet", "first_convolution"]

BACKBONES = ("small", "resnet18")

_GROUPS = 8
_LEVELS = 4
_RESNET_FEATURES = 512
_RESNET_HIDDEN = 256


class QualityNet(nn.Module):
    """Predicts the Dice score of masks; the score of a volume is the mean over its slices.

    Args:
        image_channels: C, channels of the image.
        num_foreground: F, foreground classes; one mask channel and one output each.
        backbone: `small`, four stride-2 convolutions with group normalisation, or `resnet18`
            (11.3 M parameters).
        width: `small` only: channels of its first convolution, doubled by each that follows
            (32: 0.5 M parameters).
        dropout: probability before the first linear layer; half of it before the second.
        weights: safetensors file with a ResNet-18 for images, in the names of torchvision and
            timm; its classifier is not used. None: random weights.

    Raises:
        ConfigError: an unknown backbone, or a file that is missing, damaged or of another network.
    """

    def __init__(
        self,
        image_channels: int,
        num_foreground: int,
        *,
        backbone: str = "small",
        width: int = 32,
        dropout: float = 0.15,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES or (weights is not None and backbone != "resnet18"):
            msg = (
                f"Quality predictor with backbone {backbone!r} and weights {weights}: choose one "
                f"of {', '.join(BACKBONES)}; only resnet18 takes a weights file."
            )
            raise ConfigError(msg)
        self.image_channels = image_channels
        self.num_foreground = num_foreground
        channels = image_channels + num_foreground
        if backbone == "small":
            plan = [width * 2**level for level in range(_LEVELS)]
            self.backbone: nn.Module = _small(channels, plan)
            self.head = _head(plan[-1], plan[-1], num_foreground, dropout)
        else:
            self.backbone = _resnet(channels)
            self.head = _head(_RESNET_FEATURES, _RESNET_HIDDEN, num_foreground, dropout)
        if weights is not None:
            _load_resnet(self.backbone, weights, image_channels, num_foreground)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the predicted Dice [B, F] in [0, 1].

        Args:
            image: [B, C, H, W] or [B, C, D, H, W], normalised as in training.
            mask: [B, F, H, W] or [B, F, D, H, W] binary, or probabilities; the gradient flows into
                it.

        Raises:
            ValueError: the shapes do not fit each other or the network.
        """
        expected = (image.shape[0], self.num_foreground, *image.shape[2:])
        if image.shape[1] != self.image_channels or mask.shape != expected:
            msg = (
                f"image {tuple(image.shape)} and mask {tuple(mask.shape)} do not fit: expected "
                f"{self.image_channels} image channels and a mask {expected}"
            )
            raise ValueError(msg)
        joined = torch.cat((image, mask.to(image.dtype)), dim=1)
        if image.ndim == 4:
            return cast("Tensor", self.head(self.backbone(joined)))
        slices = joined.transpose(1, 2).flatten(0, 1)
        score = cast("Tensor", self.head(self.backbone(slices)))
        return score.reshape(image.shape[0], -1, self.num_foreground).mean(1)


def first_convolution(rgb: Tensor, image_channels: int, mask_channels: int) -> Tensor:
    """Return weights for image and mask channels, made of those for RGB images.

    Args:
        rgb: [O, 3, k, k].
        image_channels: 3 keeps the filters; 1 takes their sum, which is what a gray image shown
            as RGB meets; any other number spreads that sum evenly.
        mask_channels: each gets the mean of the three filters.

    Returns:
        [O, image_channels + mask_channels, k, k].
    """
    if image_channels == 3:
        image = rgb
    else:
        image = rgb.sum(1, keepdim=True).expand(-1, image_channels, -1, -1) / image_channels
    mask = rgb.mean(1, keepdim=True).expand(-1, mask_channels, -1, -1)
    return torch.cat((image, mask), dim=1)


def _small(channels: int, plan: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, *plan)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
            nn.GroupNorm(gcd(_GROUPS, outputs), outputs),
            nn.ReLU(inplace=True),
        ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.apply(_initialise)
    return network


def _head(features: int, hidden: int, num_foreground: int, dropout: float) -> nn.Sequential:
    score = nn.Linear(hidden, num_foreground)
    head = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(features, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout / 2),
        score,
        nn.Sigmoid(),
    )
    head.apply(_initialise)
    # Fan-out of one output would mean weights of size sqrt(2): the sigmoid starts saturated, and
    # the small network never leaves there (constant 1 after 600 steps, two seeds of two).
    nn.init.kaiming_normal_(score.weight, mode="fan_in", nonlinearity="linear")
    return head


def _resnet(channels: int) -> nn.Module:
    return cast(
        "nn.Module",
        resnet18(
            spatial_dims=2,
            n_input_channels=channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        ),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _load_resnet(backbone: nn.Module, path: Path, image_channels: int, mask_channels: int) -> None:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"Quality predictor weights {path} cannot be read: {error}") from error
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    first = state.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[1] == 3:
        state["conv1.weight"] = first_convolution(first, image_channels, mask_channels)
    own = backbone.state_dict()
    # Files written by other tools often lack these counters, which only a momentum of None reads.
    state |= {n: t for n, t in own.items() if n.endswith("num_batches_tracked") and n not in state}
    wrong = [n for n in own if n not in state or state[n].shape != own[n].shape]
    wrong += [n for n in state if n not in own]
    if wrong:
        msg = (
            f"Quality predictor weights {path} are not those of a ResNet-18 for RGB images: "
            f"{len(wrong)} tensors are missing, unknown or of another shape, e.g. {wrong[0]!r}."
        )
        raise ConfigError(msg)
    backbone.load_state_dict(state)
