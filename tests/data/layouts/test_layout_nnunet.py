from __future__ import annotations

import json

import numpy as np
import pytest

from fedssl.errors import DataError

VOLUME = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LABEL = (np.arange(24).reshape(2, 3, 4) % 2).astype(np.uint8)
TWO_CHANNELS = {"0": "T2", "1": "ADC"}
LABELS = {"background": 0, "tumour": 1}


@pytest.fixture
def tree(tmp_path, write_image):
    def write(channels=TWO_CHANNELS, labels=LABELS, *, label=LABEL, test=(), **about):
        root = tmp_path / "Dataset027_X"
        for case in ("case_001", "case_002"):
            for number in range(len(channels)):
                path = root / "imagesTr" / f"{case}_{number:04}.nii.gz"
                write_image(path, VOLUME + number, spacing=(1, 1, 3))
            write_image(root / "labelsTr" / f"{case}.nii.gz", label, spacing=(1, 1, 3))
        for case in test:
            for number in range(len(channels)):
                write_image(root / "imagesTs" / f"{case}_{number:04}.nii.gz", VOLUME)
        table = {"channel_names": channels, "labels": labels, "numTraining": 2, **about}
        (root / "dataset.json").write_text(json.dumps({**table, "file_ending": ".nii.gz"}))
        return root

    return write


def test_the_files_of_a_case_are_its_channels_in_order(tree, open_layout):
    source = open_layout("nnunet", tree(), mode="3d", channels=2)
    assert [(c.name, c.has_label) for c in source.cases] == [("case_001", True), ("case_002", True)]
    case = source.read(0)
    np.testing.assert_array_equal(case.image, np.stack([VOLUME, VOLUME + 1]))
    np.testing.assert_array_equal(case.label, LABEL)
    assert case.spacing == (3, 1, 1)


def test_the_first_version_of_dataset_json_is_read_too(tree, open_layout):
    root = tree({"0": "MRI"}, {"0": "background", "1": "tumour"})
    table = json.loads((root / "dataset.json").read_text())
    table["modality"] = table.pop("channel_names")
    (root / "dataset.json").write_text(json.dumps(table))
    source = open_layout("nnunet", root, mode="slices")
    np.testing.assert_array_equal(source.read(1).image, VOLUME[None])


def test_values_with_gaps_become_classes_in_their_order(tree, open_layout):
    labels = {"background": 0, "liver": 3, "lesion": 7, "ignore": 9}
    root = tree(labels=labels, label=LABEL * 7)
    source = open_layout("nnunet", root, mode="3d", channels=2, classes=3)
    np.testing.assert_array_equal(source.read(0).label, LABEL * 2)
    root = tree(labels=labels, label=LABEL * 9)
    source = open_layout("nnunet", root, mode="3d", channels=2, classes=3)
    with pytest.raises(DataError, match=r"case_001\.nii\.gz holds the value 9,.*7\.\.7 = class 2"):
        source.read(0)


def test_values_of_overlapping_regions_stay_as_they_are(tree, open_layout):
    root = tree(labels={"background": 0, "whole": [1, 2], "core": 2}, label=LABEL * 2)
    source = open_layout("nnunet", root, mode="3d", channels=2, classes=3)
    np.testing.assert_array_equal(source.read(0).label, LABEL * 2)


def test_a_colour_picture_is_one_file_with_three_channels(
    tmp_path, open_layout, write_image, colour
):
    write_image(tmp_path / "imagesTr" / "a_0000.png", colour, vector=True)
    write_image(tmp_path / "labelsTr" / "a.png", colour[..., 0] % 2)
    about = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": LABELS}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    case = open_layout("nnunet", tmp_path, channels=3).read(0)
    np.testing.assert_array_equal(case.image, np.moveaxis(colour, -1, 0))


def test_test_images_are_taken_if_asked_for(tree, open_layout):
    root = tree(test=("case_101",))
    names = {
        cases: [c.name for c in open_layout("nnunet", root, cases=cases, role=role).cases]
        for cases, role in (("training", "mixed"), ("test", "unlabeled"), ("all", "mixed"))
    }
    assert names == {
        "training": ["case_001", "case_002"],
        "test": ["case_101"],
        "all": ["case_001", "case_002", "case_101"],
    }


def test_test_images_with_labels_are_the_published_test_split(tree, open_layout, write_image):
    root = tree(test=("case_101",))
    write_image(root / "labelsTs" / "case_101.nii.gz", LABEL)
    source = open_layout("nnunet", root, cases="all")
    assert [(c.split, c.has_label) for c in source.cases] == [
        ("", True),
        ("", True),
        ("test", True),
    ]


def test_labels_are_not_needed_at_an_unlabeled_site(tree, open_layout):
    root = tree()
    (root / "labelsTr").rename(root.parent / "elsewhere")
    source = open_layout("nnunet", root, role="unlabeled")
    assert [c.has_label for c in source.cases] == [False, False]


def test_a_missing_channel_and_a_name_without_one_are_refused(tree, open_layout, write_image):
    root = tree()
    (root / "imagesTr" / "case_001_0000.nii.gz").unlink()
    with pytest.raises(DataError, match=r"holds the channels \[1\] of 'case_001'.*\[0, 1\]"):
        open_layout("nnunet", root)
    write_image(root / "imagesTr" / "case_001.nii.gz", VOLUME)
    with pytest.raises(DataError, match=r"case_001\.nii\.gz has no channel in its name"):
        open_layout("nnunet", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dataset\.json cannot be read as JSON"),
        ("[]", r"dataset\.json holds a list, but a JSON object"),
        ('{"labels": {"background": 0}}', r"dataset\.json names no channels"),
        ('{"channel_names": {"0": "CT"}}', r"dataset\.json gives no labels"),
        ('{"channel_names": {"0": "CT"}, "labels": {"a": "b"}}', "values have to be integers"),
    ],
)
def test_a_broken_dataset_json_is_refused(tree, open_layout, content, message):
    root = tree()
    (root / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_layout("nnunet", root)


def test_a_wrong_tree_says_what_was_expected(tree, open_layout):
    root = tree()
    with pytest.raises(DataError, match=r"no nnunet tree; expected dataset\.json.*Dataset027_X"):
        open_layout("nnunet", root.parent)


def test_a_case_with_a_channel_less_than_the_others_is_named(tree, open_layout):
    root = tree()
    (root / "imagesTr/case_002_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"channels \[0\] of 'case_002'.*needed are \[0, 1\]"):
        open_layout("nnunet", root, mode="3d", channels=2)


def test_the_number_of_training_cases_is_compared(tree, open_layout, caplog):
    open_layout("nnunet", tree({"0": "CT"}, numTraining=30), mode="3d")
    assert "nnunet is published with 30 images, 2 are" in caplog.text
