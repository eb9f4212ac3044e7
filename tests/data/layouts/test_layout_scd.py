from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

FILLED = np.zeros((16, 16), dtype=np.uint8)
FILLED[4:9, 3:11] = 255
FIRST = "Skin Image Data Set-1/skin_data/melanoma"
SECOND = "Skin Image Data Set-2/skin_data/notmelanoma"


@pytest.fixture
def tree(tmp_path, write_image):
    def write(*names):
        for name in names:
            photo = np.full((16, 16, 3), 120, dtype=np.uint8)
            write_image(tmp_path / f"{name}_orig.jpg", photo, vector=True)
            write_image(tmp_path / f"{name}_contour.png", FILLED)
        junk = tmp_path / "__MACOSX" / FIRST / "dermis" / "._D1_orig.jpg"
        junk.parent.mkdir(parents=True)
        junk.write_bytes(b"\0\5\26\7")
        return tmp_path

    return write


def test_originals_pair_with_their_filled_contours_in_both_archives(tree, open_layout):
    root = tree(f"{FIRST}/dermis/D1", f"{FIRST}/dermquest/SSM9", f"{SECOND}/dermis/D30")
    source = open_layout("scd", root, channels=3)
    assert [(c.name, c.has_label) for c in source.cases] == [
        ("D1", True),
        ("D30", True),
        ("SSM9", True),
    ]
    np.testing.assert_array_equal(source.read(0).label, FILLED > 0)
    assert len(open_layout("scd", root / "Skin Image Data Set-1", channels=3).cases) == 2


def test_equal_names_in_two_folders_are_told_apart(tree, open_layout, write_image):
    root = tree(f"{FIRST}/dermis/D1", f"{SECOND}/dermis/D1")
    other = np.zeros_like(FILLED)
    write_image(root / SECOND / "dermis" / "D1_contour.png", other)
    source = open_layout("scd", root, channels=3)
    assert [c.name.split("_")[-1] for c in source.cases] == ["D1", "D1"]
    assert [bool(source.read(i).label.any()) for i in range(2)] == [True, False]


def test_a_contour_without_its_picture_and_a_wrong_tree_are_refused(tree, open_layout, tmp_path):
    root = tree(f"{FIRST}/dermis/D1", f"{FIRST}/dermis/D2")
    (root / f"{FIRST}/dermis/D1_orig.jpg").unlink()
    with pytest.raises(DataError, match=r"dermis holds 1 masks without an image.*D1_contour\.png"):
        open_layout("scd", root, channels=3)
    with pytest.raises(DataError, match=r"no scd tree; expected pictures \*_orig\.jpg"):
        open_layout("scd", root / "__MACOSX", channels=3)


def test_a_dead_link_is_refused(tree, open_layout):
    root = tree(f"{FIRST}/dermis/D1")
    (root / "D2_orig.jpg").symlink_to(root / "gone.jpg")
    with pytest.raises(DataError, match=r"D2_orig\.jpg is a link that leads nowhere"):
        open_layout("scd", root, channels=3)
