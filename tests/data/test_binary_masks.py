"""Masks of "set or not set": which values are taken for what, and which are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedssl.data.case_files import decode, read_mask
from fedssl.data.layouts.cases import BINARY, CaseFile, MaskCode, MaskLayer
from fedssl.data.source import FolderSource
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Output, Role, Task

TASK = Task("lesion", ("background", "lesion"), "2d", Output.EXCLUSIVE, 1)
INSIDE = np.zeros((32, 40), dtype=bool)
INSIDE[8:20, 10:30] = True


def mask_of(*values: int) -> np.ndarray:
    """Return a mask [H, W] with a block of each value, the first one everywhere else."""
    mask = np.full(INSIDE.shape, values[0], dtype=np.int64)
    for number, value in enumerate(values[1:]):
        mask[8:20, 10 * number + 1 : 10 * number + 9] = value
    return mask


@pytest.mark.parametrize("values", [(0,), (1,), (255,), (0, 1), (0, 255), (1, 0), (255, 0)])
def test_zero_and_one_or_255_are_read(values):
    mask = mask_of(*values)
    np.testing.assert_array_equal(decode(mask, BINARY, Path("m.png")), mask > 0)


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ((0, 2), 2),
        ((0, 1, 2), 2),
        ((0, 100), 100),
        ((0, 1, 255), 1),
        ((0, 128, 255), 128),
        ((0, 65535), 65535),
        ((0, -1), -1),
        ((0, 130, 250), 130),
    ],
)
@pytest.mark.parametrize("code", [BINARY, MaskCode(inverted="corners")])
def test_other_values_are_no_background_but_an_error(values, odd, code):
    with pytest.raises(DataError, match=rf"m\.png holds the value {odd}, .*label-values"):
        decode(mask_of(*values), code, Path("m.png"))


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_lossy_copy_is_read(quality):
    buffer = io.BytesIO()
    Image.fromarray(np.where(INSIDE, 255, 0).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    worn = np.asarray(Image.open(buffer)).astype(np.int64)
    assert len(np.unique(worn)) > 2
    np.testing.assert_array_equal(decode(worn, BINARY, Path("m.png")), INSIDE)


def test_edges_of_a_halved_mask_are_read_without_a_value_near_255():
    sharp = np.zeros((24, 32), dtype=np.int64)
    sharp[7:17, 7:25] = 255
    halved = sharp.reshape(12, 2, 16, 2).mean(axis=(1, 3)).astype(np.int64)
    assert set(np.unique(halved)) == {0, 63, 127, 255}
    np.testing.assert_array_equal(decode(halved, BINARY, Path("m.png")), halved > 127)


def test_grey_edges_as_resizing_leaves_them_are_read():
    sharp = Image.fromarray(np.where(INSIDE, 255, 0).astype(np.uint8))
    soft = np.asarray(sharp.resize((90, 70), Image.Resampling.BICUBIC)).astype(np.int64)
    assert ((soft > 48) & (soft < 207)).any()
    np.testing.assert_array_equal(decode(soft, BINARY, Path("m.png")), soft > 127)


def test_a_picture_in_the_place_of_a_mask_is_refused():
    picture = np.random.default_rng(0).integers(0, 256, (32, 40))
    picture[:10, :10] = 120
    with pytest.raises(DataError, match="holds the value"):
        decode(picture, BINARY, Path("m.png"))


def test_a_layer_with_other_values_is_refused_with_a_remedy_that_helps_there(tmp_path):
    Image.fromarray(mask_of(0, 2).astype(np.uint8)).save(tmp_path / "left.png")
    layers = (MaskLayer(tmp_path / "left.png", 1),)
    case = CaseFile("a", "a", tmp_path / "a.png", layers=layers)
    with pytest.raises(DataError, match=r"left\.png holds the value 2, .*save it as 0") as caught:
        read_mask(case, None)
    assert "label-values" not in str(caught.value)


def test_the_option_that_the_error_names_mends_a_list_of_masks(tmp_path):
    Image.fromarray(mask_of(7, 9).astype(np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(mask_of(0, 2).astype(np.uint8)).save(tmp_path / "m.png")
    (tmp_path / "train.csv").write_text("image_path,mask_path\ni.png,m.png\n")

    def label(options):
        spec = SiteSpec(
            name="n", path=str(tmp_path), role=Role.LABELED, layout="csv", options=options
        )
        return FolderSource(spec, TASK).read(0).label

    with pytest.raises(DataError, match=r"m\.png holds the value 2, .*label-values"):
        label({})
    np.testing.assert_array_equal(label({"label-values": "0,2"}), mask_of(0, 1))
