from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

DISC = np.zeros((6, 8), dtype=np.uint8)
DISC[1:5, 1:6] = 1
DISC[2:4, 2:4] = 2
ENCODED = np.array([255, 128, 0], dtype=np.uint8)[DISC]


@pytest.fixture
def fundus(tmp_path, write_image, colour):
    for part, stem in (("train", "V0001"), ("valid", "V0002"), ("test", "V0003")):
        base = tmp_path / "Fundus" / "SiteB" / part
        write_image(base / "image" / f"{stem}.png", colour, vector=True)
        drawn = 255 - ENCODED if part == "test" else ENCODED
        write_image(base / "label" / f"{stem}.png", drawn)
    return tmp_path / "Fundus"


def test_labels_and_the_three_parts_are_read_inverted_or_not(fundus, open_layout):
    source = open_layout("fundus-sites", fundus, classes=3, channels=3, site="SiteB")
    assert [(c.name, c.split) for c in source.cases] == [
        ("V0001", "train"),
        ("V0002", "val"),
        ("V0003", "test"),
    ]
    for index in range(3):
        np.testing.assert_array_equal(source.read(index).label, DISC)
    direct = open_layout("fundus-sites", fundus / "SiteB", classes=3, channels=3)
    assert direct.cases == source.cases


def test_a_wrong_tree_says_what_was_expected(fundus, open_layout):
    with pytest.raises(DataError, match=r"no fundus-sites tree; expected train/image and train/l"):
        open_layout("fundus-sites", fundus, classes=3, channels=3)
    with pytest.raises(DataError, match=r"expected SiteA/train/image"):
        open_layout("fundus-sites", fundus, classes=3, channels=3, site="SiteA")
