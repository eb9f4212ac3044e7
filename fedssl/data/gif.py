"""GIF pictures, which ITK does not read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from fedssl.data.decoded import Decoded, plain_grid
from fedssl.data.formats import check_claimed_size
from fedssl.errors import DataError

__all__ = ["gif_shape", "read_gif"]

_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
)


def gif_shape(path: Path) -> tuple[int, int]:
    """Return (H, W) from the header.

    Raises:
        DataError: the header claims no pixels, or more than the file can hold.
    """
    with path.open("rb") as file:
        head = file.read(13)
    if len(head) < 13:
        raise DataError(f"{path} is cut off inside its header. Copy the file again.")
    width, height = struct.unpack_from("<HH", head, 6)
    if not width or not height:
        raise DataError(f"{path}: its header claims {width} x {height} pixels. Export it again.")
    check_claimed_size(path, 3 * width * height)
    return height, width


def read_gif(path: Path) -> Decoded:
    """Read the one picture of a GIF: one channel if its colours are grey, else three.

    Raises:
        DataError: cut off, damaged, or an animation.
    """
    gif_shape(path)
    try:
        with Image.open(path, formats=("GIF",)) as image:
            check_claimed_size(path, 3 * image.width * image.height)
            frames = getattr(image, "n_frames", 1)
            if frames != 1:
                raise DataError(
                    f"{path} is an animation of {frames} pictures; save one picture per file."
                )
            colours = np.asarray(image.convert("RGB"))
    except _BROKEN as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}. Copy or export it again.") from None
    array = np.moveaxis(colours, -1, 0)
    if (array == array[:1]).all():
        array = array[:1]
    return Decoded(array, plain_grid(array.shape[1:]))
