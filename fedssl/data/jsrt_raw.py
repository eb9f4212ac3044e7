"""The raw pictures of the JSRT database: no header, 2048 x 2048 big-endian 16-bit values.

The twelve bits in use are those of the film's density, so a dense (dark) film has high values;
readers get 4095 minus the value, which looks like any other chest radiograph.

Source: Shiraishi et al., American Journal of Roentgenology 174 (2000), 71-74.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedssl.data.decoded import Decoded, plain_grid
from fedssl.errors import DataError

__all__ = ["JSRT_SHAPE", "check_jsrt", "read_jsrt"]

JSRT_SHAPE = (2048, 2048)
"""(H, W) of every picture."""

_BYTES = 2 * 2048 * 2048
_LARGEST = 4095


def check_jsrt(path: Path) -> None:
    """Refuse a file of another length; there is no header to look at.

    Raises:
        DataError: names the length that it has and should have.
    """
    length = path.stat().st_size
    if length != _BYTES:
        raise DataError(
            f"{path} has {length} bytes; an .IMG file of JSRT has {_BYTES} (2048 x 2048 values of "
            "16 bits). Copy it again; an image of another kind (e.g. Analyze) has to be converted."
        )


def read_jsrt(path: Path) -> Decoded:
    """Read [1, 2048, 2048] uint16 in 0..4095, bones bright.

    Raises:
        DataError: another length, or values beyond twelve bits.
    """
    check_jsrt(path)
    stored = np.fromfile(path, dtype=">u2").reshape(JSRT_SHAPE)
    largest = int(stored.max())
    if largest > _LARGEST:
        raise DataError(
            f"{path} holds the value {largest}, but pictures of JSRT have 12 bits (0 to "
            f"{_LARGEST}), the high byte first. Look whether its bytes were swapped."
        )
    return Decoded((_LARGEST - stored).astype(np.uint16)[np.newaxis], plain_grid(JSRT_SHAPE))
