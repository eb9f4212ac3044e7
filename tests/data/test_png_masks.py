"""PNG masks with a palette or few bits: the values that were stored, not their colours."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedssl.data.readers import read_image, read_label
from fedssl.errors import DataError

CLASSES = np.zeros((9, 11), dtype=np.uint8)
CLASSES[2:5, 1:7] = 1
CLASSES[6:8, 3:9] = 2
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def write_png(
    path: Path, array: np.ndarray, bits: int, kind: int = 0, palette: bytes = b""
) -> Path:
    """Write [H, W] with so many bits per pixel; kind 0 is grey, 3 a palette."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    height, width = array.shape
    binary = np.unpackbits(array[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in binary)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", [0, 3])
def test_masks_of_few_bits_hold_the_numbers_that_were_stored(tmp_path, bits, kind):
    palette = bytes(VOC[:12]) if kind == 3 else b""
    path = write_png(tmp_path / "m.png", CLASSES, bits, kind, palette)
    np.testing.assert_array_equal(read_label(path).array, CLASSES)


def test_one_bit_stays_black_and_white(tmp_path):
    path = write_png(tmp_path / "m.png", np.minimum(CLASSES, 1), 1)
    np.testing.assert_array_equal(read_label(path).array, np.where(CLASSES, 255, 0))


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2), (2,), (0,)])
def test_of_a_colour_palette_the_numbers_count_whatever_is_in_the_picture(tmp_path, present):
    numbers = np.resize(np.array(present, dtype=np.uint8), (6, 8))
    mask = Image.fromarray(numbers).convert("P")
    mask.putpalette(VOC + [0] * (768 - len(VOC)))
    mask.putdata(numbers.ravel().tolist())
    mask.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label(tmp_path / "m.png").array, numbers)


@pytest.mark.parametrize("depth", [255, 2])
def test_a_palette_of_greys_means_its_greys(tmp_path, depth):
    """Compressors store few grey values that way, in an order of their own."""
    palette = bytes([depth] * 3 + [0] * 3 + [1] * 3)
    path = write_png(tmp_path / "m.png", CLASSES, 8, 3, palette)
    np.testing.assert_array_equal(
        read_label(path).array, np.array([depth, 0, 1], dtype=np.uint8)[CLASSES]
    )


def test_a_compressed_picture_of_one_colour_on_black_is_still_set_or_not(tmp_path):
    palette = bytes([255, 0, 0, 0, 0, 0])  # the colour first, then black
    path = write_png(tmp_path / "m.png", np.minimum(CLASSES, 1), 1, 3, palette)
    np.testing.assert_array_equal(read_label(path).array, np.where(CLASSES, 0, 255))


def test_images_keep_the_colours_of_their_palette(tmp_path):
    path = write_png(tmp_path / "i.png", CLASSES, 8, 3, bytes(VOC))
    colours = np.array(VOC, dtype=np.float32).reshape(-1, 3)[CLASSES]
    np.testing.assert_array_equal(read_image(path).array, np.moveaxis(colours, -1, 0))


def test_a_number_without_a_colour_is_an_error(tmp_path):
    path = write_png(tmp_path / "m.png", CLASSES, 8, 3, bytes(VOC[:6]))
    with pytest.raises(DataError, match=r"m\.png cannot be read"):
        read_label(path)
