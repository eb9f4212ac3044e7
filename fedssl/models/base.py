"""What every segmentation network of fedssl offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from fedssl.types import SegOutput

__all__ = ["SegmentationModel"]


class SegmentationModel(nn.Module, ABC):
    """A network that returns logits and the features they are read from.

    Only dropout modules may be stochastic: in eval mode, two passes over one input are equal.

    Attributes:
        feature_channels: D, channels of `SegOutput.features`.
        stride: every side of the input must be a multiple of it.
    """

    feature_channels: int
    stride: int

    @abstractmethod
    def encode(self, x: Tensor) -> Sequence[Tensor]:
        """Return everything that comes before the first dropout, for x [B, C, *S]."""

    @abstractmethod
    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        """Return logits [B, out_channels, *S] and features [B, D, *S]; keeps `encoded` as is."""

    def forward(self, x: Tensor) -> SegOutput:
        """Return logits and features of x [B, C, *S].

        Raises:
            ValueError: a side of `x` is not a multiple of `stride`.
        """
        self.check_size(x)
        return self.decode(self.encode(x))

    def passes(self, x: Tensor, count: int) -> Iterator[SegOutput]:
        """Yield `count` stochastic passes over x; what no dropout touches runs once."""
        self.check_size(x)
        encoded = self.encode(x)
        for _ in range(count):
            yield self.decode(encoded)

    def check_size(self, x: Tensor) -> None:
        """Raise ValueError unless every side of x [B, C, *S] is a multiple of `stride`."""
        size = tuple(x.shape[2:])
        if any(side % self.stride for side in size):
            fits = tuple(max(1, -(-side // self.stride)) * self.stride for side in size)
            raise ValueError(
                f"The input is {size} pixels, but this network needs sides that are multiples "
                f"of {self.stride}; {fits} would fit."
            )
