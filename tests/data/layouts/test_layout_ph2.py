from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from fedssl.errors import DataError

LESION = np.zeros((6, 8), dtype=bool)
LESION[2:4, 1:5] = True


@pytest.fixture
def tree(tmp_path, colour):
    """Write PH2 as its archive has it; a mask is a one-bit BMP in one lesion, 8 bits in another."""

    def write(top="PH2 Dataset images"):
        for name, mask in (("IMD002", LESION), ("IMD437", LESION.astype(np.uint8) * 255)):
            base = tmp_path / "PH2Dataset" / top / name
            for part in ("Dermoscopic_Image", "lesion", "roi"):
                (base / f"{name}_{part}").mkdir(parents=True)
            image = base / f"{name}_Dermoscopic_Image" / f"{name}.bmp"
            Image.fromarray(colour).save(image)
            Image.fromarray(mask).save(base / f"{name}_lesion" / f"{name}_lesion.bmp")
            Image.fromarray(~LESION).save(base / f"{name}_roi" / f"{name}_R1_Label4.bmp")
        (tmp_path / "PH2Dataset" / "PH2_dataset.txt").write_text("||Name||\n")
        return tmp_path / "PH2Dataset"

    return write


@pytest.mark.parametrize("top", ["PH2 Dataset images", "PH2_Dataset_images"])
def test_lesions_are_read_with_their_masks_and_regions_passed_over(tree, open_layout, top, colour):
    root = tree(top)
    source = open_layout("ph2", root, channels=3)
    assert [c.name for c in source.cases] == ["IMD002", "IMD437"]
    for index in range(2):
        case = source.read(index)
        np.testing.assert_array_equal(case.image, np.moveaxis(colour, -1, 0))
        np.testing.assert_array_equal(case.label, LESION)
    for path in (root / top, root.parent):
        assert open_layout("ph2", path, channels=3).cases == source.cases


def test_the_resized_copy_is_read(open_layout, tmp_path, colour):
    for folder, name, array in (("imgs", "IMD251", colour), ("segs", "IMD251_lesion", LESION)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / f"{name}.bmp")
    source = open_layout("ph2", tmp_path, channels=3)
    assert [c.name for c in source.cases] == ["IMD251"]
    np.testing.assert_array_equal(source.read(0).label, LESION)


def test_masks_are_not_needed_and_the_200_lesions_are_compared(tree, open_layout, caplog):
    root = tree()
    (root / "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp").unlink()
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("ph2", root, channels=3, role="unlabeled")
    assert [c.has_label for c in source.cases] == [False, True]
    assert "published with 200 images, 2 are" in caplog.text


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    (tmp_path / "somewhere").mkdir()
    with pytest.raises(
        DataError, match=r"no ph2 tree; expected PH2 Dataset images/IMD002/.*holds: somewhere"
    ):
        open_layout("ph2", tmp_path, channels=3)
