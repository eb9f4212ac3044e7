from __future__ import annotations

import logging

import pytest

from fedssl.errors import DataError

TRUTH = (
    "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
    "benign_malignant,target\n"
    "ISIC_0015719,IP_3075186,female,45.0,upper extremity,unknown,benign,0\n"
    "ISIC_0052212,IP_2842074,female,50.0,lower extremity,nevus,benign,0\n"
    "ISIC_0068279,IP_2842074,female,45.0,head/neck,unknown,benign,0\n"
    "ISIC_0074268,IP_6890425,female,55.0,upper extremity,unknown,benign,0\n"
)
DUPLICATES = "image_name_1,image_name_2\nISIC_0015719,ISIC_0074268\n"


@pytest.fixture
def tree(tmp_path, write_image, colour):
    for row in TRUTH.splitlines()[1:]:
        write_image(tmp_path / "train" / f"{row.split(',')[0]}.jpg", colour, vector=True)
    (tmp_path / "ISIC_2020_Training_GroundTruth.csv").write_text(TRUTH.replace("\n", "\r\n"))
    (tmp_path / "ISIC_2020_Training_Duplicates.csv").write_text(DUPLICATES)
    return tmp_path


def test_the_second_of_two_duplicates_is_dropped_and_patients_are_subjects(tree, open_layout):
    source = open_layout("isic-2020", tree, channels=3, role="unlabeled")
    assert [(c.name, c.subject) for c in source.cases] == [
        ("ISIC_0015719", "IP_3075186"),
        ("ISIC_0052212", "IP_2842074"),
        ("ISIC_0068279", "IP_2842074"),
    ]
    assert source.read(0).image.shape == (3, 6, 8)
    assert source.read(0).label is None


def test_shards_never_cut_a_patient(tree, open_layout):
    shards = [
        open_layout("isic-2020", tree / "train", channels=3, role="unlabeled", shard=(i, 2)).cases
        for i in range(2)
    ]
    assert [{c.subject for c in shard} for shard in shards] == [{"IP_2842074"}, {"IP_3075186"}]


def test_the_32701_pictures_without_duplicates_are_compared(tree, open_layout, caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("isic-2020", tree, channels=3, role="unlabeled")
    assert "published with 32701 images, 3 are" in caplog.text


def test_the_table_of_patients_is_needed_in_full(tree, open_layout):
    truth = tree / "ISIC_2020_Training_GroundTruth.csv"
    truth.write_text("\n".join(TRUTH.splitlines()[:-1]))
    with pytest.raises(DataError, match=r"GroundTruth\.csv has no patient of 'ISIC_0074268' \(1 "):
        open_layout("isic-2020", tree, role="unlabeled")
    truth.write_text("image,patient\n")
    with pytest.raises(DataError, match=r"GroundTruth\.csv has no column 'image_name'; needed"):
        open_layout("isic-2020", tree, role="unlabeled")
    truth.unlink()
    with pytest.raises(DataError, match=r"has no ISIC_2020_Training_GroundTruth\.csv, which tells"):
        open_layout("isic-2020", tree, role="unlabeled")


def test_a_wrong_tree_says_what_was_expected(open_layout, tmp_path):
    with pytest.raises(DataError, match=r"no isic-2020 tree; expected train/ISIC_\*\.jpg"):
        open_layout("isic-2020", tmp_path, role="unlabeled")
