from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

POLYP = np.zeros((32, 32, 3), dtype=np.uint8)
POLYP[8:20, 3:17] = 255


@pytest.fixture
def kvasir(tmp_path, write_image):
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    for name in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"):
        write_image(tmp_path / "Kvasir-SEG" / "images" / f"{name}.jpg", photo, vector=True)
        write_image(tmp_path / "Kvasir-SEG" / "masks" / f"{name}.jpg", POLYP, vector=True)
    (tmp_path / "Kvasir-SEG" / "kavsir_bboxes.json").write_text("{}")
    return tmp_path / "Kvasir-SEG"


def test_jpeg_masks_are_cut_at_half_of_a_byte(kvasir, open_layout):
    source = open_layout("kvasir", kvasir, channels=3)
    assert [c.has_label for c in source.cases] == [True, True]
    np.testing.assert_array_equal(source.read(0).label, POLYP[..., 0] > 0)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/1.png", "masks/1.tif"),
        ("image/ISIC_0000001.png", "mask/ISIC_0000001_segmentation.png"),
        ("Images/x.png", "GT/X_mask.png"),
        ("imgs/IMD251.png", "segs/IMD251_lesion.png"),
        ("images/D1.png", "masks/D1_contour.png"),
    ],
)
def test_folders_and_endings_of_its_relatives_are_known(
    tmp_path, open_layout, write_image, image, mask
):
    write_image(tmp_path / image, POLYP, vector=True)
    write_image(tmp_path / mask, POLYP[..., 0] // 255)
    case = open_layout("kvasir", tmp_path, channels=3).read(0)
    np.testing.assert_array_equal(case.label, POLYP[..., 0] > 0)


def test_masks_are_not_needed(kvasir, open_layout):
    (kvasir / "masks").rename(kvasir.parent / "elsewhere")
    source = open_layout("kvasir", kvasir, channels=3, role="unlabeled")
    assert not any(c.has_label for c in source.cases)
    with pytest.raises(DataError, match="role 'labeled', but none of the 2 images"):
        open_layout("kvasir", kvasir, channels=3, role="labeled")


def test_a_wrong_tree_or_stray_mask_is_refused(kvasir, open_layout, write_image):
    write_image(kvasir / "masks" / "other.png", POLYP[..., 0])
    with pytest.raises(DataError, match=r"masks holds 1 masks without an image.*other\.png"):
        open_layout("kvasir", kvasir, channels=3)
    with pytest.raises(DataError, match=r"no kvasir tree; expected images/\*\.jpg.*Kvasir-SEG"):
        open_layout("kvasir", kvasir.parent, channels=3)
