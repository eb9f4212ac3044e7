"""Masks that are empty, inverted, not nested, or off their image's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedssl.data.check_findings import Level, from_error
from fedssl.data.check_masks import (
    check_content,
    check_grids,
    check_nesting,
    check_turned,
    grid_distance,
)
from fedssl.data.geometry import Geometry
from fedssl.errors import DataError
from fedssl.types import Output, Task

NESTED = Task("fundus", ("background", "disc", "cup"), output=Output.NESTED)
FLAT = Task("t", ("background", "organ"))
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def disc(cup_at: tuple[int, int], cup: int = 3, size: int = 40) -> np.ndarray:
    """A disc of radius 10 around (20, 20) and a cup of another radius around `cup_at`."""
    y, x = np.mgrid[:size, :size]
    label = ((y - 20) ** 2 + (x - 20) ** 2 <= 100).astype(np.uint8)
    label[(y - cup_at[0]) ** 2 + (x - cup_at[1]) ** 2 <= cup**2] = 2
    return label


def test_a_cup_inside_its_disc_is_fine():
    assert check_nesting(disc((20, 20)), NESTED, "m") == []
    assert check_nesting(disc((20, 26)), NESTED, "m") == []  # touches the rim, as in glaucoma


def test_a_cup_outside_its_disc_is_an_error():
    (found,) = check_nesting(disc((20, 36)), NESTED, "m")
    assert (found.level, found.kind, found.file) == (Level.ERROR, "nesting", "m")
    assert "'cup' does not lie inside 'disc'" in found.detail


def test_swapped_values_of_disc_and_cup_are_an_error():
    swapped = np.array([0, 2, 1], dtype=np.uint8)[disc((20, 20), cup=4)]
    (found,) = check_nesting(swapped, NESTED, "m")
    assert found.level == Level.ERROR
    assert "label-values" in found.remedy


def test_a_cup_that_reaches_out_of_its_disc_is_a_warning():
    y, x = np.mgrid[:40, :40]
    label = np.zeros((40, 40), dtype=np.uint8)
    label[(y >= 10) & (y < 20)] = 1
    label[(y >= 14) & (y < 24) & (x > 10) & (x < 20)] = 2  # 4 of 10 rows below the band
    (found,) = check_nesting(label, NESTED, "m")
    assert found.level == Level.WARNING


def test_empty_and_full_masks_are_warnings():
    empty, full = np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)
    assert [f.kind for f in check_content(empty, FLAT, "m")] == ["empty-mask"]
    assert [f.kind for f in check_content(full, FLAT, "m")] == ["full-mask"]
    assert check_content(np.eye(9, dtype=np.uint8), FLAT, "m") == []


def grid(spacing=(1.0, 1.0, 3.0), origin=(0.0, 0.0, 0.0), direction=EYE) -> Geometry:
    return Geometry.of((20, 30, 11), spacing, origin, direction)


def test_equal_grids_lie_on_each_other_whatever_their_orientation():
    assert grid_distance(grid(), grid()) == (0.0, 0.0)
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    turned = grid(origin=(19.0, 0.0, 0.0), direction=flipped)
    apart, longer = grid_distance(grid(), turned)
    assert apart == pytest.approx(0)
    assert longer == 0


def test_a_shift_is_measured_in_voxels():
    assert grid_distance(grid(), grid(origin=(0.0, 2.0, 0.0))) == (2.0, 0.0)
    (found,) = check_grids(grid(), grid(origin=(0.0, 2.0, 0.0)), Path("m"), Path("i"), 0.1)
    assert (found.level, found.kind) == (Level.WARNING, "geometry")
    assert "2.00 voxels" in found.detail


def test_rounded_headers_are_within_the_tolerance():
    rounded = grid(spacing=(1.0, 1.0 + 1e-4, 3.0), origin=(1e-3, 0.0, 0.0))
    assert check_grids(grid(), rounded, Path("m"), Path("i"), 0.1) == []
    assert check_grids(grid(), rounded, Path("m"), Path("i"), 1e-4) != []


def test_another_spacing_is_an_error():
    # 11 slices: 10 gaps of 0.3 mm more are 3 mm, one voxel
    assert grid_distance(grid(), grid(spacing=(1.0, 1.0, 3.3)))[1] == pytest.approx(1.0)
    (found,) = check_grids(grid(), grid(spacing=(1.0, 1.0, 3.3)), Path("m"), Path("i"), 0.1)
    assert found.level == Level.ERROR
    assert "3.3 x 1 x 1 and 3 x 1 x 1 mm" in found.detail


@pytest.mark.parametrize(
    ("message", "detail", "remedy"),
    [
        ("/d/a. B.png is cut. Copy it again.", "/d/a. B.png is cut.", "Copy it again."),
        ("/d/a. B.png is empty; copy it again.", "/d/a. B.png is empty.", "Copy it again."),
        ("/d/a. B.png is odd.", "/d/a. B.png is odd.", "Export or copy the file again."),
    ],
)
def test_an_error_is_told_apart_from_its_remedy(message, detail, remedy):
    found = from_error(DataError(message), "image", [Path("/d/a. B.png")], "/d")
    assert (found.file, found.detail, found.remedy) == ("/d/a. B.png", detail, remedy)
    assert from_error(DataError("It is odd."), "image", [Path("/d/x")], "/d").file == "/d"


def test_a_photograph_that_viewers_turn_is_warned_of(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    turned = Image.Exif()
    turned[0x0112] = 3
    picture.save(tmp_path / "plain.jpg")
    picture.save(tmp_path / "turned.JPG", format="JPEG", exif=turned)
    assert check_turned(tmp_path / "plain.jpg") == []
    (found,) = check_turned(tmp_path / "turned.JPG")
    assert (found.kind, found.level) == ("orientation", Level.WARNING)
    assert "orientation is 3" in found.detail
    assert check_turned(tmp_path / "gone.jpg") == []


def test_a_file_that_may_not_be_read_needs_access_and_no_new_export(tmp_path):
    path = tmp_path / "a.png"
    error = DataError(f"{path} cannot be opened: Permission denied.")
    found = from_error(error, "image", [path], str(tmp_path))
    assert (found.file, found.remedy) == (str(path), "Ask for access to it.")
