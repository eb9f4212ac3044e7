from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.errors import DataError

LEFT = np.zeros((6, 8), dtype=np.uint8)
LEFT[1:5, 0:3] = 255
RIGHT = np.zeros((6, 8), dtype=np.uint8)
RIGHT[1:5, 5:8] = 255
NAMES = ("MCUCXR_0001_0", "MCUCXR_0141_1")


@pytest.fixture
def tree(tmp_path, write_image, picture):
    base = tmp_path / "MontgomerySet"
    for name in NAMES:
        write_image(base / "CXR_png" / f"{name}.png", picture)
        write_image(base / "ManualMask" / "leftMask" / f"{name}.png", LEFT)
        write_image(base / "ManualMask" / "rightMask" / f"{name}.png", RIGHT)
        notes = base / "ClinicalReadings" / f"{name}.txt"
        notes.parent.mkdir(exist_ok=True)
        notes.write_text("Patient's Sex: F\n")
    (base / "CXR_png" / "Thumbs.db").write_bytes(b"\0")
    return base


@pytest.mark.parametrize("level", [".", ".."])
def test_left_and_right_masks_are_one_class(tree, open_layout, level):
    source = open_layout("montgomery", (tree / level).resolve())
    assert [(c.name, c.subject, c.has_label) for c in source.cases] == [(n, n, True) for n in NAMES]
    for index in range(2):
        np.testing.assert_array_equal(source.read(index).label, (LEFT + RIGHT) > 0)


def test_one_more_folder_of_the_same_name_is_entered(tree, open_layout, tmp_path):
    (tmp_path / "outer").mkdir()
    nested = tree.rename(tmp_path / "outer" / "MontgomerySet")
    nested.parent.rename(tmp_path / "MontgomerySet")
    assert len(open_layout("montgomery", tmp_path / "MontgomerySet").cases) == 2


def test_pictures_without_masks_are_unlabeled_and_half_a_mask_is_refused(tree, open_layout):
    for side in ("leftMask", "rightMask"):
        (tree / "ManualMask" / side / f"{NAMES[0]}.png").unlink()
    assert [c.has_label for c in open_layout("montgomery", tree).cases] == [False, True]
    (tree / "ManualMask" / "leftMask" / f"{NAMES[1]}.png").unlink()
    with pytest.raises(DataError, match=r"rightMask/MCUCXR_0141_1\.png is the mask of one lung"):
        open_layout("montgomery", tree)


def test_no_masks_at_all_are_needed_at_an_unlabeled_site(tree, open_layout):
    (tree / "ManualMask").rename(tree.parent / "elsewhere")
    source = open_layout("montgomery", tree, role="unlabeled")
    assert [c.has_label for c in source.cases] == [False, False]


def test_the_138_pictures_are_compared(tree, open_layout, caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("montgomery", tree)
    assert "montgomery is published with 138 images, 2 are" in caplog.text


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(
        DataError, match=r"no montgomery tree; expected CXR_png/\*\.png and ManualMask.*nothing"
    ):
        open_layout("montgomery", tmp_path)
