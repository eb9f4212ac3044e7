from __future__ import annotations

import h5py
import numpy as np
import pytest

from fedssl.config import SplitConfig
from fedssl.data.splits import make_split
from fedssl.errors import DataError

VOLUME = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)  # x, y, z
MASK = (VOLUME > 0.7).astype(np.float32)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "Pancreas_h5"
    folder.mkdir()
    for number in (1, 2, 25, 70):
        with h5py.File(folder / f"image{number:04d}_norm.h5", "w") as file:
            file["image"], file["label"] = VOLUME + number, MASK
    return tmp_path


def test_float_labels_and_the_suffix_norm_are_read(tree, open_layout):
    source = open_layout("pancreas-h5", tree, mode="3d")
    assert [c.name for c in source.cases] == ["image0001", "image0002", "image0025", "image0070"]
    case = source.read(1)
    np.testing.assert_array_equal(case.image[0], (VOLUME + 2).transpose(2, 1, 0))
    np.testing.assert_array_equal(case.label, MASK.transpose(2, 1, 0))


def test_the_two_copies_of_one_scan_never_stand_on_both_sides(tree, open_layout):
    source = open_layout("pancreas-h5", tree, mode="3d")
    subjects = [c.subject for c in source.cases]
    assert subjects == ["image0001", "image0002", "image0025", "image0025"]
    for fold in range(3):
        split = make_split(subjects, SplitConfig(folds=3, fold=fold), "north")
        assert any({2, 3} <= set(part) for part in (split.train, split.val, split.test))


def test_lists_name_cases_with_or_without_suffix(tree, open_layout):
    (tree / "train.list").write_text("image0001\nimage0025_norm\n")
    (tree / "test.list").write_text("Pancreas_h5/image0002_norm.h5\n")
    source = open_layout("pancreas-h5", tree, mode="3d")
    assert {c.name: c.split for c in source.cases} == {
        "image0001": "train",
        "image0002": "test",
        "image0025": "train",
    }


def test_another_order_of_axes_is_an_option(tree, open_layout):
    source = open_layout("pancreas-h5", tree, mode="3d", axes="zyx")
    np.testing.assert_array_equal(source.read(0).image[0], VOLUME + 1)
    with pytest.raises(DataError, match=r"axes = 'xxz' is unknown.*zyx"):
        open_layout("pancreas-h5", tree, mode="3d", axes="xxz")
