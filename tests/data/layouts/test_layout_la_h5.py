from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest

from fedssl.data.source import FolderSource
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

IDS = ("06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU", "1D7CUD1955YZPGK8XHJX")
VOLUME = np.random.default_rng(0).normal(size=(9, 7, 5)).astype(np.float32)  # x, y, z
MASK = (VOLUME > 1).astype(np.uint8)


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate(IDS):
        folder = tmp_path / "2018LA_Seg_Training Set" / name
        folder.mkdir(parents=True)
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file.create_dataset("image", data=VOLUME + i, compression="gzip")
            file.create_dataset("label", data=MASK, compression="gzip")
    return tmp_path


def test_scans_are_volumes_with_their_last_axis_first(tree, open_layout):
    source = open_layout("la-h5", tree, mode="3d")
    assert [c.name for c in source.cases] == list(IDS)
    case = source.read(1)
    np.testing.assert_array_equal(case.image[0], (VOLUME + 1).transpose(2, 1, 0))
    np.testing.assert_array_equal(case.label, MASK.transpose(2, 1, 0))
    assert case.distance_unit == "pixel"
    grid = source.geometry(1)
    np.testing.assert_array_equal(grid.restore(case.label), MASK)


def test_a_given_spacing_is_in_the_order_x_y_z(tree):
    spec = SiteSpec(
        name="utah", path=str(tree), role="labeled", layout="la-h5", spacing=(0.5, 0.75, 1.25)
    )
    case = FolderSource(spec, Task("t", ("background", "atrium"), mode="3d")).read(0)
    assert case.spacing == (1.25, 0.75, 0.5)
    assert case.distance_unit == "mm"


def test_the_lists_are_the_split_whatever_their_line_ends(tree, open_layout):
    (tree / "train.list").write_bytes(f"{IDS[2]}\r\n{IDS[0]}\r\n\r\n\n".encode())
    (tree / "test.list").write_text(f"{IDS[1]}/mri_norm2.h5\n")
    source = open_layout("la-h5", tree, mode="3d")
    assert {c.name: c.split for c in source.cases} == {
        IDS[0]: "train",
        IDS[1]: "test",
        IDS[2]: "train",
    }


def test_the_crop_around_the_truth_is_told(tree, open_layout, caplog):
    with caplog.at_level(logging.WARNING):
        open_layout("la-h5", tree, mode="3d")
    assert "cropped around the true atrium" in caplog.text
    assert "published with 100 images, 3 are in" in caplog.text


def test_a_scan_without_a_mask_is_unlabeled(tree, open_layout):
    with h5py.File(tree / "2018LA_Seg_Training Set" / IDS[0] / "mri_norm2.h5", "a") as file:
        del file["label"]
    source = open_layout("la-h5", tree, mode="3d")
    assert [c.has_label for c in source.cases] == [False, True, True]
    assert source.read(0).label is None


def test_a_list_that_names_nobody_and_one_named_twice_are_refused(tree, open_layout):
    (tree / "train.list").write_text("nobody\n")
    with pytest.raises(DataError, match=r"none of the 1 cases that .*train\.list.*'nobody'.*3 on"):
        open_layout("la-h5", tree, mode="3d")
    (tree / "train.list").write_text(f"{IDS[0]}\n{IDS[1]}\n")
    (tree / "test.list").write_text(f"{IDS[1]}\n")
    with pytest.raises(DataError, match=rf"test\.list names '{IDS[1]}', which .*train\.list"):
        open_layout("la-h5", tree, mode="3d")


def test_a_folder_without_scans_is_explained(tmp_path, open_layout):
    with pytest.raises(DataError, match=r"no la-h5 tree; expected .*mri_norm2\.h5.*nothing"):
        open_layout("la-h5", tmp_path, mode="3d")
