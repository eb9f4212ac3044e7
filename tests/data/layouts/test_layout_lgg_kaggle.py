from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

PATIENTS = ("TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405", "TCGA_HT_A61B_19991127")
SLICES = 11


@pytest.fixture
def tree(tmp_path, write_image):
    """As unpacked: everything lies in a second folder once more."""
    root = tmp_path / "lgg-mri-segmentation" / "kaggle_3m"
    for patient in PATIENTS:
        for n in range(1, SLICES + 1):
            image = np.stack([np.full((6, 6), v + n, np.uint8) for v in (0, 50, 100)], axis=-1)
            write_image(root / patient / f"{patient}_{n}.tif", image, vector=True)
            mask = np.zeros((6, 6), np.uint8)
            mask[: n % 6] = 255
            write_image(root / patient / f"{patient}_{n}_mask.tif", mask)
    (root / "data.csv").write_text("Patient,RNASeqCluster\n")
    (root / "README.md").write_text("LGG")
    return tmp_path


def test_slices_are_pictures_of_three_channels_and_a_patient_is_a_subject(tree, open_layout):
    source = open_layout("lgg-kaggle", tree, channels=3)
    assert len(source.cases) == 3 * SLICES
    assert {c.subject for c in source.cases} == set(PATIENTS)
    names = [c.name for c in source.cases]
    case = source.read(names.index(f"{PATIENTS[1]}_4"))
    np.testing.assert_array_equal(case.image[:, 0, 0], [4, 54, 104])
    assert case.label.sum() == 4 * 6


def test_a_hospital_is_a_site(tree, open_layout):
    source = open_layout("lgg-kaggle", tree / "lgg-mri-segmentation", channels=3, hospital="HT")
    assert {c.subject for c in source.cases} == {PATIENTS[2]}
    with pytest.raises(DataError, match=r"no lgg-kaggle tree; expected kaggle_3m"):
        open_layout("lgg-kaggle", tree, channels=3, hospital="FG")


def test_a_patient_is_a_volume_whose_slices_follow_their_numbers(tree, open_layout):
    source = open_layout("lgg-kaggle", tree, channels=3, mode="slices", volumes=True)
    assert [c.name for c in source.cases] == list(PATIENTS)
    case = source.read(0)
    assert case.image.shape == (3, SLICES, 6, 6)
    np.testing.assert_array_equal(case.image[1, :, 0, 0], 50 + np.arange(1, SLICES + 1))
    np.testing.assert_array_equal(
        case.label.sum(axis=(1, 2)), [n % 6 * 6 for n in range(1, SLICES + 1)]
    )
    assert case.distance_unit == "pixel"


def test_a_patient_without_one_mask_is_an_unlabeled_volume(tree, open_layout):
    folder = tree / "lgg-mri-segmentation" / "kaggle_3m" / PATIENTS[0]
    (folder / f"{PATIENTS[0]}_3_mask.tif").unlink()
    source = open_layout("lgg-kaggle", tree, channels=3, mode="slices", volumes=True)
    assert [c.has_label for c in source.cases] == [False, True, True]


def test_the_number_of_patients_is_compared(tree, open_layout, caplog):
    open_layout("lgg-kaggle", tree, channels=3)
    assert "published with 110 subjects, 3 are in" in caplog.text
