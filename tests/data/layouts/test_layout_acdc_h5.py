from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest

from fedssl.errors import DataError

VOLUME = np.random.default_rng(0).random((3, 6, 5)).astype(np.float32)
MASK = np.random.default_rng(1).integers(0, 4, (3, 6, 5)).astype(np.uint8)
FRAMES = ("patient001_frame01", "patient001_frame12", "patient002_frame01", "patient003_frame15")


def write(path, image, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
        file["scribble"] = label


@pytest.fixture
def tree(tmp_path):
    for frame in FRAMES:
        write(tmp_path / "data" / f"{frame}.h5", VOLUME, MASK)
        for z in range(3):
            place = tmp_path / "data" / "slices" / f"{frame}_slice_{z}.h5"
            write(place, VOLUME[z] + z, MASK[z])
    return tmp_path


def test_frames_are_volumes_of_four_classes_and_both_frames_one_subject(tree, open_layout):
    source = open_layout("acdc-h5", tree, mode="slices", classes=4)
    assert [c.name for c in source.cases] == list(FRAMES)
    assert [c.subject for c in source.cases] == [f[:10] for f in FRAMES]
    case = source.read(0)
    np.testing.assert_array_equal(case.image[0], VOLUME)
    np.testing.assert_array_equal(case.label, MASK)


def test_the_lists_of_frames_are_the_split(tree, open_layout, caplog):
    (tree / "train.list").write_text("patient001_frame01\npatient001_frame12\npatient009_frame01\n")
    (tree / "val.list").write_text("patient002_frame01\n")
    with caplog.at_level(logging.WARNING):
        source = open_layout("acdc-h5", tree, mode="slices", classes=4)
    assert [c.split for c in source.cases] == ["train", "train", "val"]
    assert "1 listed cases are missing on disk, e.g. 'patient009_frame01'" in caplog.text
    assert "1 cases stand in none of the lists; left out" in caplog.text


def test_slices_are_pictures_and_a_patient_is_a_subject(tree, open_layout):
    source = open_layout("acdc-h5-slices", tree, mode="2d", classes=4)
    assert len(source.cases) == 12
    assert {c.subject for c in source.cases} == {"patient001", "patient002", "patient003"}
    names = [c.name for c in source.cases]
    case = source.read(names.index("patient002_frame01_slice_2"))
    np.testing.assert_array_equal(case.image[0], VOLUME[2] + 2)
    np.testing.assert_array_equal(case.label, MASK[2])


def test_only_listed_slices_train_and_held_out_patients_keep_theirs(tree, open_layout):
    (tree / "train_slices.list").write_text(
        "data/slices/patient001_frame01_slice_0.h5\npatient001_frame01_slice_2\n"
    )
    (tree / "train.list").write_text("patient001_frame01\npatient001_frame12\n")
    (tree / "val.list").write_text("patient002_frame01\n")
    (tree / "test.list").write_text("patient003_frame15\n")
    source = open_layout("acdc-h5-slices", tree, mode="2d", classes=4)
    parts: dict[str, list[str]] = {}
    for case in source.cases:
        parts.setdefault(case.split, []).append(case.name)
    assert parts["train"] == ["patient001_frame01_slice_0", "patient001_frame01_slice_2"]
    assert parts["val"] == [f"patient002_frame01_slice_{z}" for z in range(3)]
    assert parts["test"] == [f"patient003_frame15_slice_{z}" for z in range(3)]


def test_a_list_of_training_slices_alone_leaves_the_folds_to_the_patients(tree, open_layout):
    (tree / "train_slices.list").write_text(
        "patient001_frame01_slice_0\npatient003_frame15_slice_1\n"
    )
    source = open_layout("acdc-h5-slices", tree, mode="2d", classes=4)
    assert [(c.name[:10], c.split) for c in source.cases] == [
        ("patient001", ""),
        ("patient003", ""),
    ]


def test_slices_alone_are_no_frames(tree, open_layout):
    with pytest.raises(DataError, match=r"no acdc-h5 tree; expected data/patientPPP_frameFF\.h5"):
        open_layout("acdc-h5", tree / "data" / "slices", mode="slices", classes=4)
