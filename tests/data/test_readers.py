from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedssl.data.geometry import Geometry
from fedssl.data.readers import read_geometry, read_image, read_label, write_label
from fedssl.errors import DataError

VOLUME = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
PICTURE = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mha", "mhd", "nrrd", "NII.GZ", "Mha"])
def test_volume_formats_give_channels_depth_height_width_and_spacing_in_that_order(
    tmp_path, write_image, suffix
):
    path = tmp_path / f"v.{suffix.lower()}"
    write_image(path, VOLUME, spacing=(0.5, 1.5, 3.0))
    target = tmp_path / f"v.{suffix}"
    path.rename(target)
    picture = read_image(target)
    assert picture.array.dtype == np.float32
    np.testing.assert_array_equal(picture.array, VOLUME[None])
    assert picture.spacing == pytest.approx((3.0, 1.5, 0.5))
    assert picture.has_physical_spacing


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "PNG"])
@pytest.mark.parametrize("colour", [False, True])
def test_lossless_picture_formats_give_channels_height_width_without_physical_spacing(
    tmp_path, write_image, suffix, colour
):
    array = np.stack([PICTURE, PICTURE + 50, PICTURE + 100], axis=-1) if colour else PICTURE
    path = write_image(tmp_path / f"p.{suffix.lower()}", array, vector=colour)
    path = path.rename(tmp_path / f"p.{suffix}")
    picture = read_image(path)
    expected = np.moveaxis(array, -1, 0) if colour else PICTURE[None]
    if suffix == "bmp" and not colour:  # ITK expands the grey palette to colours
        expected = np.repeat(expected, 3, axis=0)
    np.testing.assert_array_equal(picture.array, expected)
    assert picture.spacing == (1.0, 1.0)
    assert not picture.has_physical_spacing


def test_jpeg_colours_stay_close_to_what_was_written(tmp_path, write_image):
    smooth = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    picture = read_image(write_image(tmp_path / "p.jpeg", smooth, vector=True))
    assert picture.array.shape == (3, 16, 16)
    np.testing.assert_allclose(picture.array, np.moveaxis(smooth, -1, 0), atol=4)


def test_sixteen_bit_png_keeps_its_values(tmp_path, write_image):
    array = (PICTURE.astype(np.uint16) * 1000).astype(np.uint16)
    picture = read_image(write_image(tmp_path / "p.png", array))
    np.testing.assert_array_equal(picture.array, array[None])


def test_alpha_is_dropped_from_pictures(tmp_path):
    rgba = np.zeros((4, 6, 4), dtype=np.uint8)
    rgba[..., :3], rgba[..., 3] = 7, 128
    Image.fromarray(rgba).save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").array.shape == (3, 4, 6)
    Image.fromarray(rgba[..., 2:]).save(tmp_path / "la.png")
    with pytest.raises(
        DataError, match=r"la\.png is a grey PNG with transparency; save it without"
    ):
        read_image(tmp_path / "la.png")


def test_vector_volumes_and_a_fourth_axis_become_channels(tmp_path, write_image):
    vector = np.stack([VOLUME, VOLUME + 100], axis=-1).astype(np.float32)
    picture = read_image(write_image(tmp_path / "v.nii.gz", vector, vector=True))
    np.testing.assert_array_equal(picture.array, np.moveaxis(vector, -1, 0))
    four = np.stack([VOLUME, VOLUME + 100]).astype(np.float32)
    picture = read_image(write_image(tmp_path / "t.nii.gz", four))
    np.testing.assert_array_equal(picture.array, four)
    one = read_image(write_image(tmp_path / "o.nii.gz", four[:1]))
    np.testing.assert_array_equal(one.array, four[:1])


def test_a_single_slice_keeps_its_depth_axis_and_its_orientation(tmp_path, write_image):
    flipped = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
    picture = read_image(write_image(tmp_path / "s.nii.gz", VOLUME[:1], direction=flipped))
    np.testing.assert_array_equal(picture.array, VOLUME[None, :1])


def test_the_scale_factors_of_nifti_headers_are_applied(tmp_path, write_image):
    path = write_image(tmp_path / "v.nii", VOLUME.astype(np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, -5.0], dtype="<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path).array[0], VOLUME * 2.0 - 5.0)


def signed_permutations() -> list[tuple[float, ...]]:
    eye = np.eye(3)
    return [
        tuple((eye[:, list(order)] * signs).ravel())
        for order in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
    ]


@pytest.mark.parametrize("direction", signed_permutations())
def test_every_orientation_of_one_body_reads_as_the_same_array(tmp_path, write_image, direction):
    """SimpleITK's own orientation filter is the judge."""
    path = write_image(
        tmp_path / "v.mha", VOLUME, direction=direction, spacing=(1.0, 2.0, 3.0), origin=(5, 6, 7)
    )
    expected = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    picture = read_image(path)
    np.testing.assert_array_equal(picture.array[0], sitk.GetArrayFromImage(expected))
    assert picture.spacing == pytest.approx(tuple(reversed(expected.GetSpacing())))
    np.testing.assert_allclose(picture.geometry.canonical_origin, expected.GetOrigin())


@given(st.sampled_from(signed_permutations()), st.integers(1, 4), st.integers(1, 4))
def test_restore_undoes_canonical(direction, channels, depth):
    array = np.arange(channels * depth * 6).reshape(channels, depth, 3, 2)
    geometry = Geometry.of((2, 3, depth), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    np.testing.assert_array_equal(geometry.restore(geometry.canonical(array)), array)
    assert Geometry.from_dict(geometry.to_dict()) == geometry


def test_an_oblique_volume_goes_to_the_nearest_axes(tmp_path, write_image):
    c, s = np.cos(0.3), np.sin(0.3)
    direction = (-c, s, 0, -s, -c, 0, 0, 0, 1.0)  # half a turn about z, and 17 degrees
    picture = read_image(write_image(tmp_path / "v.nrrd", VOLUME, direction=direction))
    np.testing.assert_array_equal(picture.array[0], VOLUME[:, ::-1, ::-1])


def test_a_prediction_is_written_back_onto_the_grid_of_its_image(tmp_path, write_image):
    direction = (0, 0, 1.0, -1.0, 0, 0, 0, 1.0, 0)
    image = write_image(
        tmp_path / "v.nii.gz", VOLUME, direction=direction, spacing=(1, 2, 3), origin=(4, 5, 6)
    )
    canonical = read_image(image)
    label = (canonical.array[0] > 10).astype(np.uint8)
    write_label(tmp_path / "out.nii.gz", label, canonical.geometry)
    stored = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored), VOLUME > 10)
    assert stored.GetDirection() == pytest.approx(sitk.ReadImage(str(image)).GetDirection())
    assert stored.GetOrigin() == pytest.approx((4, 5, 6))
    np.testing.assert_array_equal(read_label(tmp_path / "out.nii.gz").array, label)
    assert read_geometry(image) == canonical.geometry


def test_integral_float_masks_are_accepted_and_others_are_named(tmp_path, write_image):
    good = write_image(tmp_path / "good.nii.gz", (VOLUME % 3).astype(np.float32))
    label = read_label(good).array
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, VOLUME % 3)
    bad = write_image(tmp_path / "bad.nii.gz", VOLUME * 0.25)
    with pytest.raises(DataError, match=r"bad\.nii\.gz.*value 0\.25.*thresholded"):
        read_label(bad)


def test_masks_with_equal_channels_or_one_colour_on_black_are_accepted(tmp_path, write_image):
    mask = np.array([[0, 128, 255], [0, 0, 128]], dtype=np.uint8)
    equal = write_image(tmp_path / "equal.png", np.stack([mask] * 3, -1), vector=True)
    np.testing.assert_array_equal(read_label(equal).array, mask)
    red = np.zeros((2, 3, 3), dtype=np.uint8)
    red[0, 1:] = (255, 0, 10)
    one = write_image(tmp_path / "red.png", red, vector=True)
    # set or not set; which of several classes it is cannot be known
    np.testing.assert_array_equal(read_label(one).array, [[0, 255, 255], [0, 0, 0]])
    red[1, 0] = (0, 255, 0)
    two = write_image(tmp_path / "two.png", red, vector=True)
    with pytest.raises(DataError, match=r"two\.png.*channels that differ.*single-channel"):
        read_label(two)


def test_a_constant_alpha_of_a_mask_is_dropped_and_a_telling_one_refused(tmp_path):
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[0, :, :3], rgba[..., 3] = 255, 255
    Image.fromarray(rgba).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_label(tmp_path / "m.png").array, [[255] * 3, [0] * 3])
    rgba[1, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png.*channels that differ"):
        read_label(tmp_path / "m.png")


def test_a_palette_mask_is_read_as_its_grey_values_or_as_the_numbers_of_its_colours(tmp_path):
    indices = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    indices.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2])
    indices.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png").array, [[0, 1, 2]])
    indices.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indices.save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_label(tmp_path / "colour.png").array, [[0, 1, 2]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_are_counted_and_named(tmp_path, write_image, value):
    array = VOLUME.astype(np.float64)
    array[0, 0, :2] = value
    path = write_image(tmp_path / "v.nii.gz", array)
    with pytest.raises(DataError, match=r"v\.nii\.gz holds 2 values that are NaN, infinite"):
        read_image(path)


def test_failures_name_the_file_and_the_cause_and_nothing_is_printed(tmp_path, write_image, capfd):
    for suffix, cause in {
        "nii": "cut off",
        "nii.gz": "cannot be unpacked",
        "mha": "data not read completely",
        "nrrd": "fread got only",
        "png": "cut off inside its data",
        "jpg": "end-of-image",
        "tif": "cut off inside its pages",
        "bmp": "cut off",
    }.items():
        picture = np.arange(40 * 50, dtype=np.uint8).reshape(40, 50)
        array = picture[None] if suffix in {"nii", "nii.gz", "mha", "nrrd"} else picture
        path = write_image(tmp_path / f"x.{suffix}", array)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert cause in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_suffix_is_explained(tmp_path, write_image):
    path = write_image(tmp_path / "x.png", PICTURE).rename(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg is no JPEG file; its content looks like PNG"):
        read_image(path)
    with pytest.raises(DataError, match=r"x\.webp has no supported suffix.*\.nii\.gz"):
        read_image(path.rename(tmp_path / "x.webp"))


@pytest.mark.parametrize(
    ("folder", "image", "shape", "spacing", "values"),
    [
        ("lgg_flair_3d/tcga_cs", "TCGA_CS_4941_19960909.nii.gz", (1, 23, 128, 128), True, {0, 1}),
        ("la_2018_half/utah", "06SR5RBREL16DQ6M8LWS.nii.gz", (1, 44, 70, 91), True, {0, 1}),
        ("hippocampus_msd/vanderbilt", "hippocampus_007.nii.gz", (1, 40, 47, 34), True, {0, 1, 2}),
        ("retina_vessels/chase_db1", "Image_01L.jpg", (3, 960, 999), False, {0, 1}),
    ],
)
def test_one_case_of_each_real_data_set_reads_with_its_mask(
    real_data, folder, image, shape, spacing, values
):
    picture = read_image(real_data / folder / "images" / image)
    label = read_label(
        real_data
        / folder
        / "labels"
        / Path(image).with_suffix(".png" if image.endswith(".jpg") else ".gz")
    )
    assert picture.array.shape == shape
    assert label.array.shape == shape[1:]
    assert picture.has_physical_spacing is spacing
    assert set(np.unique(label.array)) == values
