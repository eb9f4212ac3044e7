from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

LESION = np.zeros((6, 8), dtype=np.uint8)
LESION[2:4, 1:5] = 255


@pytest.fixture
def tree(tmp_path, write_image, colour):
    for folder, name in (("AK/A1", "A1"), ("AK/A2", "A2"), ("SCC/P397", "P397")):
        write_image(tmp_path / folder / f"{name}.png", colour, vector=True)
        write_image(tmp_path / folder / f"{name}mask.png", LESION)
    junk = tmp_path / "__MACOSX" / "AK" / "A1" / "A1.png"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"\0")
    return tmp_path


def test_every_file_with_mask_in_its_name_is_the_mask_of_its_lesion(tree, open_layout):
    source = open_layout("dermofit", tree, channels=3)
    assert [(c.name, c.subject, c.has_label) for c in source.cases] == [
        ("A1", "AK_A1", True),
        ("A2", "AK_A2", True),
        ("P397", "SCC_P397", True),
    ]
    np.testing.assert_array_equal(source.read(2).label, LESION > 0)


def test_pictures_of_one_lesion_are_one_subject(tree, open_layout, write_image, colour):
    write_image(tree / "AK" / "A1" / "A1b.png", colour, vector=True)
    source = open_layout("dermofit", tree, channels=3)
    assert [(c.subject, c.has_label) for c in source.cases][:2] == [
        ("AK_A1", True),
        ("AK_A1", False),
    ]


def test_a_wrong_tree_says_what_was_expected(tree, open_layout):
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match=r"no dermofit tree; expected <class>/<lesion>/<id>\.png"):
        open_layout("dermofit", tree / "empty", channels=3)
    (tree / "AK" / "A1" / "A1.png").unlink()
    with pytest.raises(DataError, match=r"A1 holds 1 masks without an image.*A1mask\.png"):
        open_layout("dermofit", tree, channels=3)
