from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from fedssl.data.layouts import LAYOUTS
from fedssl.data.layouts.cvc_clinicdb import _sequence
from fedssl.errors import DataError

POLYP = np.zeros((6, 8), dtype=np.uint8)
POLYP[2:4, 1:5] = 255


@pytest.fixture
def tree(tmp_path, write_image, colour):
    def write(images="Original", masks="Ground Truth", suffix="tif", frames=(1, 25, 26, 612)):
        for frame in frames:
            write_image(tmp_path / images / f"{frame}.{suffix}", colour, vector=True)
            write_image(tmp_path / masks / f"{frame}.{suffix}", POLYP)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("images", "masks", "suffix"),
    [
        ("Original", "Ground Truth", "tif"),
        ("PNG/Original", "PNG/Ground Truth", "png"),
        ("images", "masks", "png"),
        ("CVC-ClinicDB/Original", "CVC-ClinicDB/Ground Truth", "tif"),
    ],
)
def test_frames_of_a_sequence_are_one_subject_in_every_copy(
    tree, open_layout, images, masks, suffix
):
    source = open_layout("cvc-clinicdb", tree(images, masks, suffix), channels=3)
    assert {c.name: c.subject for c in source.cases} == {
        "1": "sequence01",
        "25": "sequence01",
        "26": "sequence02",
        "612": "sequence29",
    }
    np.testing.assert_array_equal(source.read(0).label, POLYP > 0)


def test_the_table_parts_612_frames_into_29_sequences_of_6_to_26():
    counts = Counter(_sequence(str(frame)) for frame in range(1, 613))
    assert len(counts) == 29
    assert (min(counts.values()), max(counts.values())) == (6, 26)
    assert _sequence("613") == "613"


def test_masks_are_not_needed_and_counts_are_compared(tree, open_layout, caplog):
    root = tree()
    (root / "Ground Truth").rename(root.parent / "elsewhere")
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("cvc-clinicdb", root, channels=3, role="unlabeled")
    assert not any(c.has_label for c in source.cases)
    assert "published with 612 images, 4 are" in caplog.text
    assert "1 more of its counts differ" in caplog.text
    assert "with 29 subjects, 3 are" in LAYOUTS["cvc-clinicdb"].differences(source.spec)[1]


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(DataError, match=r"no cvc-clinicdb tree; expected Original/N\.tif and"):
        open_layout("cvc-clinicdb", tmp_path, channels=3)
