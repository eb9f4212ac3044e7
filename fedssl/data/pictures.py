"""What ITK's readers of picture formats do not check.

They take a truncated BMP or JPEG for a whole one, believe the length of any PNG chunk, and follow
the pages of a TIFF in a circle for ever.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from fedssl.errors import DataError

__all__ = ["check_bmp", "check_jpeg", "check_png", "check_tiff", "png_classes"]

_MOST_PAGES = 10_000
_BITS = 258
_PALETTE = 3
_STEPS = {2: 85, 4: 17}
"""By bits of a grey PNG: what a decoder multiplies values with, so that the highest is 255."""
_LAYOUT_TAGS = {254, 255, 256, 257, _BITS, 262, 277, 284, 322, 323}
"""Kind of page, width, height, bits, colours, samples, planes, tile width and height."""


def check_bmp(path: Path) -> None:
    """Compare the length with the header; the decoder fills what is missing with anything."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 34:
        raise DataError(f"{path} is cut off inside its header. Copy the file again.")
    start, _, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if compression not in (0, 3):
        raise DataError(f"{path} is a compressed BMP, which is not supported; save it as PNG.")
    if width < 1 or height == 0:
        raise DataError(f"{path}: its header claims {width} x {height} pixels. Export it again.")
    needed = start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    length = path.stat().st_size
    if length < needed:
        raise DataError(
            f"{path} is cut off: its header claims {needed} bytes, {length} are there. "
            "Copy the file again."
        )


def check_jpeg(path: Path) -> None:
    """The decoder fills what is missing with grey, so the end marker has to be there."""
    content = path.read_bytes()
    if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise DataError(f"{path} is cut off: it has no end-of-image marker. Copy the file again.")


def check_png(path: Path) -> None:
    """A chunk's length is believed by the decoder, which then takes that much memory."""
    content = path.read_bytes()
    if content[12:16] != b"IHDR":
        raise DataError(f"{path} is damaged: it does not begin with its header. Export it again.")
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(at + 8, b"\0"), at)
        end = at + 12 + length
        if end > len(content):
            raise DataError(f"{path} is cut off inside its data. Copy the file again.")
        if zlib.crc32(content[at + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise DataError(f"{path} is damaged: a checksum is wrong. Copy the file again.")
        at = end
    if content[25] == 4:
        raise DataError(f"{path} is a grey PNG with transparency; save it without the alpha.")


def png_classes(path: Path, decoded: np.ndarray) -> np.ndarray:
    """Return a PNG mask's values [C, H, W] as they were meant; decoders hand over colours.

    Grey values of 2 and 4 bits are counted from 0. Of a palette in colours the numbers count; one
    of greys, or with black elsewhere than first, is that of a compressor and its colours count.

    Args:
        path: a PNG file, whole.
        decoded: [C, H, W] as ITK decodes it.

    Raises:
        DataError: a palette that cannot be read.
    """
    with path.open("rb") as file:
        bits, kind = file.read(26)[24:]
    if kind == 0 and bits in _STEPS:
        return np.asarray(decoded // _STEPS[bits])
    if kind != _PALETTE:
        return decoded
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            palette = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
            numbers = np.asarray(picture)
            used = palette[np.unique(numbers)]
    except (OSError, ValueError, SyntaxError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read: {error}. Export it again.") from None
    grey = (palette == palette[:, :1]).all()
    black_later = palette[0].any() and not used.any(axis=1).all()
    return decoded if grey or black_later else numbers[np.newaxis]


def check_tiff(path: Path) -> None:
    """Follow the chain of pages to its end; each lies inside the file, once, and all are alike.

    ITK takes the size of the first page for all of them.
    """
    pages: dict[int, dict[int, bytes]] = {}
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        while at:
            if at in pages or len(pages) >= _MOST_PAGES:
                raise DataError(f"{path} is damaged: its pages form a circle. Export it again.")
            pages[at], at = _page(file, at, order, big=big, path=path)
    if not pages:
        raise DataError(f"{path} is damaged: it has no page. Export it again.")
    first = next(iter(pages.values()))
    if any(page != first for page in pages.values()):
        raise DataError(
            f"{path} has {len(pages)} pages that differ in size or type; keep one picture (or the "
            "slices of one volume) per file."
        )


def _page(
    file: BinaryIO, at: int, order: str, *, big: bool, path: Path
) -> tuple[dict[int, bytes], int]:
    """Return the entries that decide a page's layout, and the offset of the next page.

    A page is a count of entries, the entries (12 bytes, in BigTIFF 20), and that offset (0: last).
    """
    count_kind, next_kind, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    try:
        file.seek(at)
        count = struct.unpack(order + count_kind, file.read(8 if big else 2))[0]
        table = file.read(min(count, 1 << 16) * size)
        following: int = struct.unpack(order + next_kind, file.read(8 if big else 4))[0]
    except (struct.error, OSError, OverflowError, ValueError):
        raise DataError(f"{path} is cut off inside its pages. Copy the file again.") from None
    rows = [table[i : i + size] for i in range(0, len(table), size)]
    tags = {struct.unpack_from(order + "H", row)[0]: row for row in rows}
    layout = {tag: row for tag, row in tags.items() if tag in _LAYOUT_TAGS}
    if struct.unpack_from(order + "I", layout.get(_BITS, bytes(size)), 4)[0] > 1:
        layout[_BITS] = layout[_BITS][:8]  # more than one value stands elsewhere, page by page
    return layout, following
