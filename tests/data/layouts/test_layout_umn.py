from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from fedssl.errors import DataError

RNG = np.random.default_rng(0)


def cells(count: int, high: int) -> np.ndarray:
    array = np.empty((1, count), dtype=object)
    for i in range(count):
        array[0, i] = (RNG.random((6, 8, 3)) * high).astype(np.uint8)
    return array


@pytest.fixture(params=[True, False], ids=["deflated", "plain"])
def tree(tmp_path, request):
    """Three images of DME, but masks of two only."""
    stored = {}
    for disease, name, images in (("AMD", "UMN_Dataset", 2), ("DME", "UMNDataset", 3)):
        (tmp_path / "OCT" / disease).mkdir(parents=True)
        variables = {
            "AllSubjects": cells(images, 255),
            "ManualFluid1": cells(2, 2),
            "ManualFluid2": cells(2, 2),
        }
        path = tmp_path / "OCT" / disease / f"{name}.mat"
        savemat(path, variables, do_compression=request.param)
        stored[disease] = variables
    return tmp_path, stored


@pytest.mark.parametrize("grader", [1, 2])
def test_a_subject_is_a_volume_with_the_mask_of_one_grader(tree, open_layout, grader):
    root, stored = tree
    source = open_layout("umn", root, mode="slices", disease="AMD", grader=grader)
    assert [c.name for c in source.cases] == ["subject01", "subject02"]
    case = source.read(1)
    assert case.image.shape == (1, 3, 6, 8)
    expected = stored["AMD"]["AllSubjects"][0, 1].transpose(2, 0, 1)
    np.testing.assert_array_equal(case.image[0], expected)
    mask = stored["AMD"][f"ManualFluid{grader}"][0, 1].transpose(2, 0, 1)
    np.testing.assert_array_equal(case.label, mask)


def test_the_image_that_has_no_mask_is_left_out(tree, open_layout):
    root, _ = tree
    source = open_layout("umn", root / "OCT" / "DME", mode="slices")
    assert [c.name for c in source.cases] == ["subject01", "subject02"]


def test_published_counts_are_compared(tree, open_layout, caplog):
    root, _ = tree
    open_layout("umn", root / "OCT" / "DME", mode="slices")
    assert "published with 29 images, 2 are in" in caplog.text


def test_the_folder_above_needs_the_disease(tree, open_layout):
    root, _ = tree
    with pytest.raises(DataError, match=r"no umn tree; expected one file UMN_Dataset\.mat"):
        open_layout("umn", root / "OCT", mode="slices")
