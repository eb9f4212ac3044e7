from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.config import SplitConfig
from fedssl.data.splits import make_split
from fedssl.errors import DataError

GLAND = np.zeros((6, 8), dtype=np.uint8)
GLAND[2:4, 2:5] = 1
INVERTED = np.where(GLAND == 1, 0, 255).astype(np.uint8)


@pytest.fixture
def tree(tmp_path, write_image, picture):
    def write(train, test, site="HK"):
        for part, stems in (("train", train), ("test", test)):
            base = tmp_path / "ProstateSlice" / site / part
            for stem in stems:
                write_image(base / "image" / f"{stem}.png", picture)
                write_image(base / "mask" / f"{stem}.png", INVERTED)
        return tmp_path / "ProstateSlice"

    return write


def test_zero_is_prostate_and_255_background(tree, open_layout, write_image):
    root = tree(["00_01", "00_02"], ["01_00"])
    empty = root / "HK" / "train" / "mask" / "00_02.png"
    write_image(empty, np.full((6, 8), 255, dtype=np.uint8))
    source = open_layout("prostate-midss", root.parent, site="HK")
    np.testing.assert_array_equal(source.read(0).label, GLAND)
    assert not source.read(1).label.any()
    write_image(empty, 255 - INVERTED)
    np.testing.assert_array_equal(source.read(1).label, GLAND)


def test_the_slices_of_a_case_are_one_subject(tree, open_layout):
    root = tree(["00_01", "00_02"], ["01_00", "01_05"])
    source = open_layout("prostate-midss", root, site="HK")
    assert [(c.subject, c.split) for c in source.cases] == [
        ("00", "train"),
        ("00", "train"),
        ("01", "test"),
        ("01", "test"),
    ]


def test_parts_that_were_numbered_apart_do_not_mix(tree, open_layout):
    root = tree(["00_01", "01_02"], ["00_01"])
    source = open_layout("prostate-midss", root / "HK")
    assert [(c.name, c.subject) for c in source.cases] == [
        ("test_00_01", "test_00"),
        ("train_00_01", "train_00"),
        ("train_01_02", "train_01"),
    ]


def test_a_case_on_both_sides_is_tested_whole(tree, open_layout):
    cases = open_layout("prostate-midss", tree(["00_01", "01_01"], ["00_02"]) / "HK").cases
    split = make_split([c.subject for c in cases], SplitConfig(), "x", [c.split for c in cases])
    assert split.test == (0, 1)
    assert split.train == (2,)


def test_the_number_of_training_slices_is_compared(tree, open_layout, caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("prostate-midss", tree(["00_01"], ["01_01"]) / "HK")
    assert "published with 136 train, 1 are" in caplog.text


def test_a_wrong_tree_says_what_was_expected(tree, open_layout):
    root = tree(["00_01"], ["01_01"])
    with pytest.raises(DataError, match=r"no prostate-midss tree; expected train/image/CC_SS\.png"):
        open_layout("prostate-midss", root)
    with pytest.raises(DataError, match=r"expected UCL/train/image/CC_SS\.png"):
        open_layout("prostate-midss", root, site="UCL")
