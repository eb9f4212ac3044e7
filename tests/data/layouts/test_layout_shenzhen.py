from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.data.layouts import LAYOUTS
from fedssl.errors import DataError

LUNGS = np.zeros((6, 8), dtype=np.uint8)
LUNGS[2:4, 1:7] = 255


@pytest.fixture
def tree(tmp_path, write_image, picture):
    def write(masks="shcxr-lung-mask/mask/mask"):
        for name in ("CHNCXR_0001_0", "CHNCXR_0002_0", "CHNCXR_0330_1"):
            write_image(tmp_path / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", picture)
        for name in ("CHNCXR_0001_0", "CHNCXR_0330_1"):
            write_image(tmp_path / masks / f"{name}_mask.png", LUNGS)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("masks", "path"),
    [
        ("shcxr-lung-mask/mask/mask", "."),
        ("shcxr-lung-mask/mask/mask", "ChinaSet_AllFiles"),
        ("ChinaSet_AllFiles/mask", "ChinaSet_AllFiles"),
        ("mask/mask", "."),
    ],
)
def test_masks_are_found_where_their_archive_puts_them(tree, open_layout, masks, path):
    source = open_layout("shenzhen", (tree(masks) / path).resolve())
    assert [(c.name, c.has_label) for c in source.cases] == [
        ("CHNCXR_0001_0", True),
        ("CHNCXR_0002_0", False),
        ("CHNCXR_0330_1", True),
    ]
    np.testing.assert_array_equal(source.read(0).label, LUNGS > 0)
    assert source.read(1).label is None


def test_pictures_with_or_without_a_mask_can_be_taken_alone(tree, open_layout):
    root = tree()
    without = open_layout("shenzhen", root, cases="without-mask", role="unlabeled")
    assert [c.name for c in without.cases] == ["CHNCXR_0002_0"]
    with_mask = open_layout("shenzhen", root, cases="with-mask")
    assert [c.has_label for c in with_mask.cases] == [True, True]


@pytest.mark.parametrize(
    ("cases", "role", "expected"),
    [
        ("all", "mixed", ["662 images, 3", "566 masks, 2"]),
        ("all", "unlabeled", ["662 images, 3"]),
        ("with-mask", "mixed", ["566 images, 2"]),
        ("without-mask", "unlabeled", ["96 images, 1"]),
    ],
)
def test_the_counts_of_the_set_are_compared(tree, open_layout, caplog, cases, role, expected):
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("shenzhen", tree(), cases=cases, role=role)
    assert f"published with {expected[0]} are" in caplog.text
    lines = LAYOUTS["shenzhen"].differences(source.spec)
    assert [line.split("with ")[1].split(" are in")[0] for line in lines] == expected


def test_masks_elsewhere_are_named_by_an_option(tree, open_layout):
    root = tree("drawn")
    assert not any(c.has_label for c in open_layout("shenzhen", root, role="unlabeled").cases)
    source = open_layout("shenzhen", root, masks="drawn")
    assert [c.has_label for c in source.cases] == [True, False, True]
    with pytest.raises(DataError, match=r"folder of masks .*nowhere does not exist"):
        open_layout("shenzhen", root, masks="nowhere")


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(DataError, match=r"no shenzhen tree; expected CXR_png/CHNCXR_\*\.png"):
        open_layout("shenzhen", tmp_path)
