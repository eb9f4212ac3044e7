from __future__ import annotations

import h5py
import numpy as np
import pytest

NAMES = ("BraTS19_2013_0_1", "BraTS19_CBICA_AAB_1", "BraTS19_TCIA01_131_1", "BraTS19_TCIA01_131_2")
VOLUME = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "data").mkdir()
    for i, name in enumerate(NAMES):
        with h5py.File(tmp_path / "data" / f"{name}.h5", "w") as file:
            file["image"], file["label"] = VOLUME + i, (VOLUME > 0).astype(np.uint8)
    return tmp_path


def test_cases_read_and_scans_of_one_patient_are_one_subject(tree, open_layout):
    source = open_layout("brats-2019-h5", tree, mode="3d")
    assert [c.name for c in source.cases] == list(NAMES)
    assert [c.subject for c in source.cases] == [
        "BraTS19_2013_0",
        "BraTS19_CBICA_AAB",
        "BraTS19_TCIA01_131",
        "BraTS19_TCIA01_131",
    ]
    case = source.read(2)
    np.testing.assert_array_equal(case.image[0], VOLUME + 2)
    np.testing.assert_array_equal(case.label, VOLUME > 0)


def test_the_first_field_of_a_line_with_commas_names_the_case(tree, open_layout):
    (tree / "train.txt").write_text(f"{NAMES[0]},3,x\r\n{NAMES[2]}, 1\r\n\r\n")
    (tree / "val.txt").write_text(f"{NAMES[1]}\n")
    (tree / "test.txt").write_text("")
    source = open_layout("brats-2019-h5", tree, mode="3d")
    assert {c.name: c.split for c in source.cases} == {
        NAMES[0]: "train",
        NAMES[1]: "val",
        NAMES[2]: "train",
    }
