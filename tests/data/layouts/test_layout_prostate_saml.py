from __future__ import annotations

import logging

import numpy as np
import pytest

from fedssl.errors import DataError

VOLUME = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
ZONES = (np.arange(24).reshape(2, 3, 4) % 3).astype(np.uint8)


@pytest.fixture
def tree(tmp_path, write_image):
    def write(site, ending="_segmentation", cases=("Case00", "Case01")):
        for case in cases:
            write_image(tmp_path / site / f"{case}.nii.gz", VOLUME, spacing=(0.5, 0.5, 3))
            if ending:
                path = tmp_path / site / f"{case}{ending}.nii.gz"
                write_image(path, ZONES, spacing=(0.5, 0.5, 3))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("folder", "ending", "option"),
    [
        ("RUNMC", "_segmentation", "RUNMC"),
        ("ISBI", "_segmentation", "RUNMC"),
        ("ISBI_1.5", "_Segmentation", "BMC"),
        ("HCRUDB", "_segmentation", "I2CVB"),
        ("I2CVB", "_SEGMENTATION", "HCRUDB"),
    ],
)
def test_both_zones_are_prostate_under_old_and_new_names(tree, open_layout, folder, ending, option):
    root = tree(folder, ending)
    source = open_layout("prostate-saml", root, mode="slices", site=option)
    assert [(c.name, c.subject, c.has_label) for c in source.cases] == [
        ("Case00", "Case00", True),
        ("Case01", "Case01", True),
    ]
    case = source.read(0)
    np.testing.assert_array_equal(case.label, ZONES > 0)
    assert (case.spacing, case.distance_unit) == ((3, 0.5, 0.5), "mm")
    assert open_layout("prostate-saml", root / folder, mode="slices").cases == source.cases


def test_segmentations_are_not_needed_at_an_unlabeled_site(tree, open_layout):
    path = tree("HK", "") / "HK"
    source = open_layout("prostate-saml", path, mode="slices", role="unlabeled")
    assert [c.has_label for c in source.cases] == [False, False]


def test_the_counts_of_the_release_are_compared(tree, open_layout, caplog):
    root = tree("ISBI_1.5")
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("prostate-saml", root / "ISBI_1.5", mode="slices")
    assert "published with 30 images, 2 are" in caplog.text
    caplog.clear()
    tree("HK", cases=[f"Case{i:02}" for i in range(12)])
    with caplog.at_level(logging.WARNING, "fedssl"):
        open_layout("prostate-saml", root, mode="slices", site="HK")
    assert not caplog.records


def test_a_wrong_tree_or_site_says_what_was_expected(tree, open_layout, write_image):
    root = tree("UCL")
    with pytest.raises(DataError, match=r"no prostate-saml tree; expected CaseXX\.nii\.gz .*UCL\."):
        open_layout("prostate-saml", root, mode="slices")
    with pytest.raises(DataError, match=r"expected BIDMC/CaseXX\.nii\.gz"):
        open_layout("prostate-saml", root, mode="slices", site="BIDMC")
    with pytest.raises(DataError, match=r"option site = 'RUMC' is unknown.*Did you mean 'RUNMC'"):
        open_layout("prostate-saml", root, mode="slices", site="RUMC")
    write_image(root / "UCL" / "Case99_segmentation.nii.gz", ZONES)
    with pytest.raises(DataError, match=r"UCL holds 1 masks without an image.*Case99_segm"):
        open_layout("prostate-saml", root / "UCL", mode="slices")


def test_a_value_that_is_no_zone_is_refused(tree, open_layout, write_image):
    path = tree("UCL") / "UCL"
    write_image(path / "Case00_segmentation.nii.gz", ZONES * 2)
    with pytest.raises(DataError, match=r"Case00_segmentation.* holds the value 4"):
        open_layout("prostate-saml", path, mode="slices").read(0)
