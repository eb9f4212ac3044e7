"""Small PNG files from arrays: 8 bits per sample; gray, RGB, or indices into an RGBA palette."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

__all__ = ["Colour", "encode_png"]

Colour = tuple[int, int, int, int]
"""Red, green, blue, alpha in [0, 255]."""

_GRAY, _RGB, _INDEXED = 0, 2, 3


def encode_png(pixels: np.ndarray, palette: Sequence[Colour] = ()) -> bytes:
    """Return a PNG file.

    Args:
        pixels: [H, W] uint8 gray values, [H, W, 3] uint8 RGB, or with a palette [H, W] uint8
            indices into it.
        palette: up to 256 colours.

    Raises:
        ValueError: shape, dtype or an index do not fit.
    """
    rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (rgb or pixels.ndim == 2) or pixels.size == 0:
        raise ValueError(f"cannot encode {pixels.dtype} pixels of shape {pixels.shape}")
    if palette and (rgb or len(palette) > 256 or int(pixels.max()) >= len(palette)):
        raise ValueError(f"the indices do not fit a palette of {len(palette)} colours")
    kind = _INDEXED if palette else _RGB if rgb else _GRAY
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    # Prediction from neighbours helps smooth pictures; indices have no order to predict.
    lines = _plain(rows) if palette else _filtered(rows, 3 if rgb else 1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    colours = b""
    if palette:
        colours = _chunk(b"PLTE", bytes(v for colour in palette for v in colour[:3]))
        colours += _chunk(b"tRNS", bytes(colour[3] for colour in palette))
    data = _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + colours + data + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _plain(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, 0), (1, 0)))


def _filtered(rows: np.ndarray, step: int) -> np.ndarray:
    """Return rows with the filter type in front that leaves the smallest residuals.

    The five filters of the PNG specification; `step` is the number of bytes per pixel.
    """
    now = rows.astype(np.int16)
    left = np.pad(now, ((0, 0), (step, 0)))[:, : rows.shape[1]]
    above = np.pad(now, ((1, 0), (0, 0)))[: rows.shape[0]]
    corner = np.pad(left, ((1, 0), (0, 0)))[: rows.shape[0]]
    paeth = _paeth(left, above, corner)
    guesses = (np.zeros_like(now), left, above, (left + above) // 2, paeth)
    residuals = np.stack([(now - guess).astype(np.uint8) for guess in guesses])
    cost = np.abs(residuals.astype(np.int8).astype(np.int32)).sum(-1)
    best = cost.argmin(0)
    chosen = residuals[best, np.arange(rows.shape[0])]
    return np.concatenate([best[:, None].astype(np.uint8), chosen], axis=1)


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    estimate = left + above - corner
    to_left, to_above = np.abs(estimate - left), np.abs(estimate - above)
    to_corner = np.abs(estimate - corner)
    upper = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, upper)
