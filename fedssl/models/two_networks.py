"""Two networks of one kind as one module, so that each is averaged with its namesake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from typing_extensions import override

from fedssl.models.base import SegmentationModel
from fedssl.types import SegOutput

__all__ = ["TwoNetworks"]


class TwoNetworks(SegmentationModel):
    """Two networks with different initial weights; a call runs the first, as evaluation does.

    Args:
        build: returns a network; called twice, it draws from torch's global generator.
    """

    def __init__(self, build: Callable[[], SegmentationModel]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({"first": build(), "second": build()})
        self.feature_channels = self.first.feature_channels
        self.stride = self.first.stride

    @property
    def first(self) -> SegmentationModel:
        """The network that is evaluated."""
        return cast("SegmentationModel", self.networks["first"])

    @property
    def second(self) -> SegmentationModel:
        """The other one."""
        return cast("SegmentationModel", self.networks["second"])

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B, out_channels, *S] of both networks."""
        return self.first(x).logits, self.second(x).logits

    @override
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        return self.first.encode(x)

    @override
    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        return self.first.decode(encoded)
