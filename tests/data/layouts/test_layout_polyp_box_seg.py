from __future__ import annotations

import logging

import pytest

from fedssl.errors import DataError


def test_all_pictures_below_are_found_and_counted(
    open_layout, tmp_path, write_image, colour, caplog
):
    base = tmp_path / "all_polyp_images_combined"
    for name in ("a/1001.jpg", "b/1002.JPG", "17.jpg"):
        write_image(base / name.lower(), colour, vector=True)
        (base / name.lower()).rename(base / name)
    (base / "a" / "boxes.csv").write_text("x,y\n")
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("polyp-box-seg", tmp_path, channels=3, role="unlabeled")
    assert [c.name for c in source.cases] == ["1001", "1002", "17"]
    assert source.read(1).image.shape == (3, 6, 8)
    assert "published with 4070 images, 3 are" in caplog.text
    assert open_layout("polyp-box-seg", base, channels=3, role="unlabeled").cases == source.cases


def test_equal_numbers_in_two_folders_are_told_apart(open_layout, tmp_path, write_image, colour):
    for folder in "ab":
        write_image(tmp_path / folder / "1.jpg", colour, vector=True)
    source = open_layout("polyp-box-seg", tmp_path, channels=3, role="unlabeled")
    assert [c.name for c in source.cases] == ["a_1", "b_1"]


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(DataError, match=r"no polyp-box-seg tree; expected all_polyp_images_comb"):
        open_layout("polyp-box-seg", tmp_path, role="unlabeled")
