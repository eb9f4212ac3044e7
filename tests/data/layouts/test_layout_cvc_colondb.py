from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.errors import DataError

POLYP = np.zeros((6, 8), dtype=np.uint8)
POLYP[2:4, 1:5] = 255


@pytest.fixture
def original(tmp_path, write_image, colour):
    base = tmp_path / "CVC-ColonDB" / "CVC-ColonDB"
    for frame in (1, 2):
        write_image(base / f"{frame}.bmp", colour, vector=True)
        write_image(base / f"p{frame}.bmp", POLYP)
        write_image(base / f"s{frame}.bmp", 255 - POLYP)
        write_image(base / f"c{frame}.bmp", POLYP // 2)
    return tmp_path / "CVC-ColonDB"


def test_the_original_has_p_masks_and_its_other_pictures_are_passed_over(original, open_layout):
    for path in (original, original.parent, original / "CVC-ColonDB"):
        source = open_layout("cvc-colondb", path, channels=3)
        assert [(c.name, c.has_label) for c in source.cases] == [("1", True), ("2", True)]
        np.testing.assert_array_equal(source.read(1).label, POLYP > 0)


def test_the_form_with_images_and_masks_is_read(open_layout, tmp_path, write_image, colour):
    write_image(tmp_path / "CVC-ColonDB" / "images" / "7.png", colour, vector=True)
    write_image(tmp_path / "CVC-ColonDB" / "masks" / "7.png", POLYP)
    source = open_layout("cvc-colondb", tmp_path, channels=3)
    np.testing.assert_array_equal(source.read(0).label, POLYP > 0)


def test_unknown_sequences_are_warned_of_until_an_index_gives_them(original, open_layout, caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("cvc-colondb", original, channels=3)
    assert "nothing tells the sequences of cvc-colondb apart" in caplog.text
    caplog.clear()
    (original / "index.csv").write_text("id,subject\n1,first\n2,first\n")
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("cvc-colondb", original, channels=3)
    assert not caplog.records
    assert [c.subject for c in source.cases] == ["first", "first"]


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(DataError, match=r"no cvc-colondb tree; expected N\.bmp with masks pN"):
        open_layout("cvc-colondb", tmp_path, channels=3)
