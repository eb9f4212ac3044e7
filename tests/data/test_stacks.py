from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedssl.data.case_files import case_grid, read_mask, read_picture, recipe
from fedssl.data.decoded import plain_grid
from fedssl.data.fingerprints import digest_files
from fedssl.data.layouts.cases import BINARY, CaseFile
from fedssl.data.readers import LabelPicture
from fedssl.data.stacks import fitted_mask
from fedssl.errors import DataError

SLICES = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)


@pytest.fixture
def volume(tmp_path, write_image) -> CaseFile:
    parts = []
    for z, plane in enumerate(SLICES):
        image = write_image(tmp_path / f"{z}.png", plane)
        mask = write_image(tmp_path / f"{z}_mask.png", (plane > 20).astype(np.uint8) * 255)
        parts.append(CaseFile(f"a{z}", "a", image, mask, code=BINARY))
    return replace(parts[0], name="a", slices=tuple(parts))


def test_slices_become_one_volume_of_unknown_spacing_with_one_mask(volume):
    picture = read_picture(volume)
    np.testing.assert_array_equal(picture.array, SLICES[None])
    assert not picture.has_physical_spacing
    assert case_grid(volume) == picture.geometry
    mask = read_mask(volume, BINARY)
    np.testing.assert_array_equal(mask.array, SLICES > 20)
    assert mask.geometry == picture.geometry


def test_every_slice_is_among_the_files_and_their_order_in_the_recipe(volume):
    assert [p.name for p in volume.image_files] == [f"{z}.png" for z in range(4)]
    assert [p.name for p in volume.label_files] == [f"{z}_mask.png" for z in range(4)]
    fewer = replace(volume, slices=volume.slices[:3])
    assert recipe(fewer) != recipe(volume)
    assert replace(volume, label=None).label_files == ()


def test_a_slice_of_another_size_is_named(volume, tmp_path, write_image):
    write_image(tmp_path / "2.png", SLICES[2, :2])
    with pytest.raises(DataError, match=r"2\.png.*shape \(1, 2, 5\).*0\.png.*\(1, 3, 5\)"):
        read_picture(volume)


@pytest.mark.parametrize(
    ("have", "wanted", "expected"),
    [
        ([1, 2], 4, [1, 1, 2, 2]),
        ([1, 2, 3, 4], 2, [2, 4]),  # centres of the new pixels lie on borders; the later one wins
        ([1, 2, 3], 3, [1, 2, 3]),
        ([1, 2, 3], 1, [2]),
    ],
)
def test_a_mask_of_another_resolution_takes_the_nearest_value(have, wanted, expected):
    mask = LabelPicture(np.array([have]), plain_grid((1, len(have))))
    grid = plain_grid((2, wanted))
    fitted = fitted_mask(mask, grid)
    np.testing.assert_array_equal(fitted.array, [expected, expected])
    assert fitted.geometry == grid


def test_a_file_that_holds_many_cases_is_digested_once(tmp_path, monkeypatch):
    path = tmp_path / "all.mat"
    path.write_bytes(b"x" * 100)
    opened = []
    original = type(path).open
    monkeypatch.setattr(
        type(path), "open", lambda self, *a, **k: opened.append(self) or original(self, *a, **k)
    )
    first, second = digest_files([path, path], tmp_path / "memo")
    assert first == second
    assert opened.count(path) == 1
