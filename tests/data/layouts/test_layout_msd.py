from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.errors import DataError

VOLUME = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LABEL = (np.arange(24).reshape(2, 3, 4) % 3).astype(np.uint8)
NAMES = ("hippocampus_001", "hippocampus_004")


@pytest.fixture
def tree(tmp_path, write_image):
    root = tmp_path / "Task04_Hippocampus"
    for name in NAMES:
        write_image(root / "imagesTr" / f"{name}.nii.gz", VOLUME)
        write_image(root / "labelsTr" / f"{name}.nii.gz", LABEL)
        (root / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7")
    write_image(root / "imagesTs" / "hippocampus_002.nii.gz", VOLUME)
    table = {
        "name": "Hippocampus",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 2,
        "numTest": 1,
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in NAMES
        ],
        "test": ["./imagesTs/hippocampus_002.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def test_the_listed_cases_are_read_and_what_the_archives_leave_is_not(tree, open_layout):
    source = open_layout("msd", tree, mode="3d", classes=3)
    assert [(c.name, c.has_label) for c in source.cases] == [(n, True) for n in NAMES]
    np.testing.assert_array_equal(source.read(0).image, VOLUME[None])
    np.testing.assert_array_equal(source.read(1).label, LABEL)


def test_test_images_are_unlabeled_cases(tree, open_layout):
    source = open_layout("msd", tree, mode="3d", classes=3, cases="all")
    assert [(c.name, c.has_label, c.split) for c in source.cases] == [
        ("hippocampus_001", True, ""),
        ("hippocampus_002", False, ""),
        ("hippocampus_004", True, ""),
    ]
    alone = open_layout("msd", tree, mode="3d", classes=3, cases="test", role="unlabeled")
    assert [c.name for c in alone.cases] == ["hippocampus_002"]


def test_a_fourth_axis_holds_channels(tree, open_layout):
    modalities = np.stack([VOLUME, VOLUME * 2])
    sitk.WriteImage(
        sitk.JoinSeries([sitk.GetImageFromArray(m) for m in modalities]),
        str(tree / "imagesTr" / "hippocampus_001.nii.gz"),
    )
    case = open_layout("msd", tree, mode="3d", classes=3, channels=2).read(0)
    np.testing.assert_array_equal(case.image, modalities)


def test_a_tree_without_labels_is_unlabeled_and_a_missing_file_is_named(tree, open_layout):
    (tree / "labelsTr" / "hippocampus_004.nii.gz").unlink()
    with pytest.raises(
        DataError, match=r"dataset\.json lists \./labelsTr/hippocampus_004\.nii\.gz, which does not"
    ):
        open_layout("msd", tree, mode="3d", classes=3)
    (tree / "labelsTr").rename(tree.parent / "elsewhere")
    source = open_layout("msd", tree, mode="3d", classes=3, role="unlabeled")
    assert [c.has_label for c in source.cases] == [False, False]


def test_the_number_of_training_cases_is_compared(tree, open_layout, caplog):
    table = json.loads((tree / "dataset.json").read_text())
    (tree / "dataset.json").write_text(json.dumps({**table, "numTraining": 260}))
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("msd", tree, mode="3d", classes=3)
    assert "msd is published with 260 images, 2 are" in caplog.text


def test_a_wrong_tree_or_list_is_refused(tree, open_layout):
    with pytest.raises(DataError, match=r"no msd tree; expected dataset\.json.*Task04_Hippocampus"):
        open_layout("msd", tree.parent, mode="3d", classes=3)
    table = json.loads((tree / "dataset.json").read_text())
    (tree / "dataset.json").write_text(json.dumps({**table, "training": ["a.nii.gz"]}))
    with pytest.raises(DataError, match=r"dataset\.json does not list training images and labels"):
        open_layout("msd", tree, mode="3d", classes=3)


def test_the_real_hippocampus_reads_as_its_archive_lists_it(real_data, tmp_path, open_layout):
    folder = real_data / "hippocampus_msd" / "vanderbilt"
    names = sorted(path.name for path in (folder / "images").iterdir())[:3]
    for part, own in (("imagesTr", "images"), ("labelsTr", "labels")):
        (tmp_path / part).symlink_to(folder / own)
    table = {
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 3,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    source = open_layout("msd", tmp_path, mode="3d", classes=3)
    ours = open_layout("folders", folder, mode="3d", classes=3)
    position = {case.name: index for index, case in enumerate(ours.cases)}
    for index, case in enumerate(source.cases):
        read, expected = source.read(index), ours.read(position[case.name])
        np.testing.assert_array_equal(read.image, expected.image)
        np.testing.assert_array_equal(read.label, expected.label)
        assert read.spacing == expected.spacing
        assert set(np.unique(read.label)) == {0, 1, 2}


def test_a_list_of_test_images_that_names_none_is_refused(tree, open_layout):
    table = json.loads((tree / "dataset.json").read_text())
    for odd in (7, {"image": 5}, "x" * 5000):
        (tree / "dataset.json").write_text(json.dumps({**table, "test": [odd]}))
        with pytest.raises(DataError, match=r"dataset\.json lists .*, which does not exist"):
            open_layout("msd", tree, mode="3d", classes=3, cases="all")
