from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.config import RunConfig, SplitConfig
from fedssl.data.layouts import LAYOUTS
from fedssl.data.splits import make_split
from fedssl.errors import DataError
from fedssl.site import Site

DRAWN = np.full((6, 8), 255, dtype=np.uint8)
DRAWN[1:4, 1:5] = 128
DRAWN[2, 2:4] = 0
CLASSES = np.select([DRAWN == 0, DRAWN == 128], [2, 1], 0)
RIM_ONE = {"train": ["G-1-L", "N-2-R", "S-3-L"], "test": ["G-1-R", "N-4-L"]}


@pytest.fixture
def tree(tmp_path, write_image, colour):
    """Write Domain2 as it is distributed, masks in RGB and in grey, with what systems leave."""

    def write(where="ROIs", domain="Domain2", names=RIM_ONE, masks=True):
        for part, stems in names.items():
            base = tmp_path / "Fundus" / domain / part / where
            for number, stem in enumerate(stems):
                write_image(base / "image" / f"{stem}.png", colour + number, vector=True)
                drawn = np.stack([DRAWN] * 3, axis=-1) if number % 2 else DRAWN
                if masks:
                    write_image(base / "mask" / f"{stem}.png", drawn, vector=bool(number % 2))
            (base / "image" / ".DS_Store").write_bytes(b"\0")
            (base / "image" / "._G-1-L.png").write_bytes(b"\0\5\26\7")
        return tmp_path / "Fundus"

    return write


def test_values_0_128_255_become_cup_disc_and_background_in_grey_and_rgb_masks(tree, open_layout):
    source = open_layout("fundus-dofe", tree() / "Domain2", classes=3, channels=3)
    assert [c.name for c in source.cases] == ["G-1-L", "G-1-R", "N-2-R", "N-4-L", "S-3-L"]
    for index in range(5):
        case = source.read(index)
        assert case.image.shape == (3, 6, 8)
        np.testing.assert_array_equal(case.label, CLASSES)


@pytest.mark.parametrize(("structure", "expected"), [("disc", CLASSES > 0), ("cup", CLASSES == 2)])
def test_one_structure_can_be_asked_for(tree, open_layout, structure, expected):
    path = tree() / "Domain2"
    source = open_layout("fundus-dofe", path, channels=3, structure=structure)
    np.testing.assert_array_equal(source.read(0).label, expected)


def test_the_published_split_holds_and_both_eyes_of_a_person_are_tested(tree, open_layout):
    source = open_layout("fundus-dofe", tree(), classes=3, channels=3, domain="Domain2")
    assert [c.split for c in source.cases] == ["train", "test", "train", "test", "train"]
    assert [c.subject for c in source.cases] == ["G-1", "G-1", "N-2", "N-4", "S-3"]
    cases = source.cases
    split = make_split([c.subject for c in cases], SplitConfig(), "x", [c.split for c in cases])
    assert split.test == (0, 1, 3)


def test_a_site_trains_and_tests_as_published(tree, open_layout, tmp_path):
    source = open_layout("fundus-dofe", tree() / "Domain2", classes=3, channels=3)
    run = RunConfig(cache_dir=str(tmp_path / "cache"))
    site = Site(source.spec, source.task, run, tmp_path / "state")
    names = [c.name for c in site.prepared.cases]
    assert [names[i] for i in site.split.test] == ["G-1-L", "G-1-R", "N-4-L"]
    assert len(site.split.train) == 1
    assert len(site.split.val) == 1  # of two subjects that are left


def test_a_task_without_a_class_for_the_cup_is_told_so(tree, open_layout):
    source = open_layout("fundus-dofe", tree() / "Domain2", channels=3)
    with pytest.raises(
        DataError, match=r"G-1-L\.png: the layout 'fundus-dofe' reads .* 0\.\.2 from"
    ):
        source.read(0)


def test_the_domain_is_found_from_the_folder_above_fundus_too(tree, open_layout):
    path = tree().parent
    assert len(open_layout("fundus-dofe", path, classes=3, channels=3, domain="Domain2").cases) == 5


def test_an_unlabeled_site_needs_no_masks(tree, open_layout):
    path = tree(masks=False) / "Domain2"
    source = open_layout("fundus-dofe", path, role="unlabeled", classes=3, channels=3)
    assert [c.has_label for c in source.cases] == [False] * 5
    assert source.read(0).label is None


def test_drishti_counts_are_those_of_its_readme_else_it_is_logged(tree, open_layout, caplog):
    path = tree(domain="Domain1", names={"train": ["gdrishtiGS_001"], "test": ["ndrishtiGS_002"]})
    with caplog.at_level(logging.WARNING, "fedssl"):
        source = open_layout("fundus-dofe", path, classes=3, channels=3, domain="Domain1")
    (record,) = caplog.records
    assert "with 101 images, 2 are" in record.getMessage()
    assert record.getMessage().endswith(" 3 more of its counts differ.")
    lines = LAYOUTS["fundus-dofe"].differences(source.spec)
    assert [line.split("with ")[1].split(" in ")[0] for line in lines] == [
        "101 images, 2 are",
        "101 masks, 2 are",
        "50 train, 1 are",
        "51 test, 1 are",
    ]


def test_raw_pictures_are_refused_unless_asked_for(tree, open_layout):
    path = tree(where="") / "Domain2"
    with pytest.raises(DataError, match=r"full pictures only.*RIM-ONE.*options = \{ raw = true \}"):
        open_layout("fundus-dofe", path, classes=3, channels=3)
    assert len(open_layout("fundus-dofe", path, classes=3, channels=3, raw=True).cases) == 5
    with pytest.raises(DataError, match="option raw = 'yes'; write true or false"):
        open_layout("fundus-dofe", path, classes=3, channels=3, raw="yes")


def test_a_wrong_tree_says_what_was_expected(tree, open_layout, tmp_path):
    path = tree()
    with pytest.raises(
        DataError,
        match=r"'north': .*Fundus is no fundus-dofe tree; expected train/ROIs/image .*"
        r"domain = \"Domain1\" \}\. It holds: Domain2\.",
    ):
        open_layout("fundus-dofe", path, classes=3, channels=3)
    with pytest.raises(DataError, match=r"expected Domain3/train/ROIs/image"):
        open_layout("fundus-dofe", path, classes=3, channels=3, domain="Domain3")
    with pytest.raises(DataError, match=r"option domain = 'domain7' is unknown"):
        open_layout("fundus-dofe", path, classes=3, channels=3, domain="domain7")


def test_a_mask_without_an_image_is_refused(tree, open_layout, write_image):
    path = tree() / "Domain2"
    write_image(path / "train" / "ROIs" / "mask" / "G-9-L.png", DRAWN)
    with pytest.raises(DataError, match=r"mask holds 1 masks without an image .*G-9-L\.png"):
        open_layout("fundus-dofe", path, classes=3, channels=3)
