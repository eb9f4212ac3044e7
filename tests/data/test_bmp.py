from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedssl.data.readers import read_geometry, read_image, read_label
from fedssl.errors import DataError


@pytest.fixture(scope="module")
def drawn():
    return np.random.default_rng(0).random((5, 37)) > 0.5


@pytest.fixture(scope="module")
def path(tmp_path_factory, drawn):
    file = tmp_path_factory.mktemp("bmp") / "mask.bmp"
    Image.fromarray(drawn).save(file)
    assert file.read_bytes()[28] == 1  # bits per pixel
    return file


def test_a_bmp_of_one_bit_per_pixel_is_read_as_0_and_255(path, drawn):
    np.testing.assert_array_equal(read_label(path).array, drawn * 255)
    np.testing.assert_array_equal(read_image(path).array, drawn[None] * 255.0)
    assert read_geometry(path).size == (37, 5)


def test_its_colours_are_those_of_its_table_and_the_top_row_may_come_first(path, drawn, tmp_path):
    content = bytearray(path.read_bytes())
    content[54:62] = bytes([0, 0, 0, 0, 40, 30, 20, 0])  # blue, green, red, unused
    content[22:26] = (-5).to_bytes(4, "little", signed=True)
    top_down = tmp_path / "mask.bmp"
    top_down.write_bytes(content)
    expected = drawn[::-1] * np.array([20, 30, 40]).reshape(3, 1, 1)
    np.testing.assert_array_equal(read_image(top_down).array, expected)


def test_one_without_a_table_of_colours_is_refused(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[14:18] = (48).to_bytes(4, "little")
    broken = tmp_path / "mask.bmp"
    broken.write_bytes(content)
    with pytest.raises(
        DataError, match=r"mask\.bmp is damaged: it has no table of its two colours"
    ):
        read_label(broken)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_one_is_read_or_refused_and_never_crashes(path, tmp_path_factory, data):
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 61))] = data.draw(st.integers(0, 255))
    broken = tmp_path_factory.mktemp("broken") / "mask.bmp"
    broken.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    told = "mask.bmp"
    try:
        read_image(broken)
    except DataError as error:
        told = str(error)
    assert "mask.bmp" in told
