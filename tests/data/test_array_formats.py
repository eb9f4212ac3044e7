"""Readers of GIF, raw JSRT, npy, HDF5 and MATLAB files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fedssl.data.decoded import plain_grid
from fedssl.data.masks import mask_name, write_onto
from fedssl.data.matlab import cell_count
from fedssl.data.readers import read_geometry, read_image, read_label
from fedssl.errors import DataError

RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 255, (5, 7)).astype(np.uint8)
VOLUME = RNG.integers(0, 255, (3, 5, 7)).astype(np.uint8)
NUMBERS = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)


def test_a_grey_gif_is_one_channel_and_a_colour_gif_three(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "grey.gif")
    grey = read_image(tmp_path / "grey.gif")
    np.testing.assert_array_equal(grey.array, PICTURE[None])
    assert not grey.has_physical_spacing
    assert read_geometry(tmp_path / "grey.gif") == grey.geometry == plain_grid((5, 7))
    colours = np.zeros((5, 7, 3), dtype=np.uint8)
    colours[0], colours[1] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(colours).save(tmp_path / "colour.gif")
    np.testing.assert_array_equal(
        read_image(tmp_path / "colour.gif").array, np.moveaxis(colours, -1, 0)
    )


def test_a_gif_mask_keeps_its_values(tmp_path):
    mask = (PICTURE > 99).astype(np.uint8) * 255
    Image.fromarray(mask).save(tmp_path / "m.gif")
    np.testing.assert_array_equal(read_label(tmp_path / "m.gif").array, mask)


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"a\.gif is an animation of 2 pictures; save one"):
        read_image(tmp_path / "a.gif")


def test_a_raw_radiograph_of_jsrt_is_big_endian_and_inverted(tmp_path):
    stored = np.zeros((2048, 2048), dtype=">u2")
    stored[0, :3] = (0, 256, 4095)
    (tmp_path / "JPCLN001.IMG").write_bytes(stored.tobytes())
    picture = read_image(tmp_path / "JPCLN001.IMG")
    assert picture.array.shape == (1, 2048, 2048)
    np.testing.assert_array_equal(picture.array[0, 0, :4], [4095, 3839, 0, 4095])
    assert read_geometry(tmp_path / "JPCLN001.IMG").size == (2048, 2048)


def test_a_raw_radiograph_of_another_length_or_byte_order_is_refused(tmp_path):
    path = tmp_path / "JPCLN001.IMG"
    path.write_bytes(bytes(2 * 2048 * 2048 - 1))
    with pytest.raises(DataError, match=r"JPCLN001\.IMG has 8388607 bytes.*8388608"):
        read_image(path)
    path.write_bytes(np.full((2048, 2048), 4000, dtype="<u2").tobytes())  # 0x0FA0 -> 0xA00F
    with pytest.raises(DataError, match=r"holds the value 40975.*bytes were swapped"):
        read_image(path)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_pictures_volumes_and_colours(tmp_path, dtype, order):
    def saved(name: str, array: np.ndarray) -> Path:
        np.save(tmp_path / name, np.asarray(array, dtype=dtype, order=order))
        return tmp_path / name

    np.testing.assert_array_equal(read_image(saved("p.npy", PICTURE)).array, PICTURE[None])
    np.testing.assert_array_equal(read_image(saved("v.npy", VOLUME)).array, VOLUME[None])
    colour = np.moveaxis(VOLUME, 0, -1)
    np.testing.assert_array_equal(read_image(saved("c.npy", colour)).array, VOLUME)
    np.testing.assert_array_equal(read_label(saved("m.npy", PICTURE)).array, PICTURE)
    assert read_geometry(tmp_path / "c.npy") == plain_grid((5, 7))


def test_channels_of_an_npy_file_are_chosen_by_key(tmp_path):
    five = RNG.integers(0, 255, (4, 6, 5))
    np.save(tmp_path / "x.npy", five)
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.npy", "0:3").array, np.moveaxis(five[..., :3], -1, 0)
    )
    np.testing.assert_array_equal(read_label(tmp_path / "x.npy", "4").array, five[..., 4])
    assert read_geometry(tmp_path / "x.npy", "4").size == (6, 4)
    with pytest.raises(DataError, match=r"x\.npy has the shape \(4, 6, 5\).*at least 6 channels"):
        read_label(tmp_path / "x.npy", "5")


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("packing", [{}, {"compression": "gzip", "shuffle": True}])
def test_hdf5_image_and_label_are_found_by_their_names(tmp_path, dtype, packing):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("image", data=VOLUME.astype(dtype), **packing)
        file.create_dataset("label", data=(VOLUME > 9).astype(dtype), **packing)
    picture = read_image(tmp_path / "x.h5")
    np.testing.assert_array_equal(picture.array, VOLUME[None])
    assert not picture.has_physical_spacing
    np.testing.assert_array_equal(read_label(tmp_path / "x.h5").array, VOLUME > 9)
    np.testing.assert_array_equal(read_image(tmp_path / "x.h5", "label").array[0], VOLUME > 9)


@pytest.mark.parametrize("axes", ["zyx", "xyz", "yxz", "zxy", "xzy", "yzx"])
def test_any_order_of_axes_becomes_depth_height_width_and_back(tmp_path, axes):
    stored = VOLUME.transpose(["zyx".index(letter) for letter in axes])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"] = stored
    picture = read_image(tmp_path / "x.h5", f"image@{axes}")
    np.testing.assert_array_equal(picture.array[0], VOLUME)
    np.testing.assert_array_equal(picture.geometry.restore(picture.array[0]), stored)
    assert read_geometry(tmp_path / "x.h5", f"image@{axes}") == picture.geometry


def test_a_soft_link_inside_the_file_is_followed(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data/scan"] = PICTURE
        file["image"] = h5py.SoftLink("/data/scan")
    np.testing.assert_array_equal(read_image(tmp_path / "x.h5").array[0], PICTURE)


def cells(*arrays: np.ndarray) -> np.ndarray:
    row = np.empty((1, len(arrays)), dtype=object)
    for i, array in enumerate(arrays):
        row[0, i] = array
    return row


@pytest.mark.parametrize("dtype", [*NUMBERS, np.int8, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("packed", [False, True])
def test_matlab_arrays_and_cells_have_their_third_axis_first(tmp_path, dtype, packed):
    volume, flat = VOLUME.astype(dtype), PICTURE.astype(dtype)
    third = np.moveaxis(volume, 0, -1)
    variables = {
        "note": "text",
        "scan": third,
        "flat": flat,
        "tiny": np.ones((1, 2), dtype=dtype),
        "all": cells(PICTURE, third, np.ones((2, 1), dtype=dtype)),
    }
    savemat(tmp_path / "x.mat", variables, do_compression=packed)
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "scan").array[0], volume)
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "flat").array[0], flat)
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "tiny").array[0], [[1, 1]])
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "all/1").array[0], volume)
    np.testing.assert_array_equal(read_label(tmp_path / "x.mat", "all/2").array, [[1], [1]])
    assert read_geometry(tmp_path / "x.mat", "all/1") == plain_grid((3, 5, 7))
    assert cell_count(tmp_path / "x.mat", "all") == 3


def test_logical_masks_of_matlab_read(tmp_path):
    savemat(tmp_path / "x.mat", {"label": PICTURE > 99})
    np.testing.assert_array_equal(read_label(tmp_path / "x.mat").array, PICTURE > 99)


def v73(path: Path, **variables: np.ndarray) -> None:
    """As MATLAB -v7.3 writes: a block of text, then HDF5 with reversed axes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if value.dtype != object:
                file[name] = value.T
                continue
            references = np.empty(value.shape[::-1], dtype=h5py.ref_dtype)
            for i, array in enumerate(value.ravel()):
                file[f"#refs#/{name}{i}"] = array.T
                references[i, 0] = file[f"#refs#/{name}{i}"].ref
            file[name] = references
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def test_matlab_files_of_version_7_3_read_alike(tmp_path):
    third = np.moveaxis(VOLUME, 0, -1)
    v73(tmp_path / "x.mat", scan=third, all=cells(PICTURE, third))
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "scan").array[0], VOLUME)
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "all/0").array[0], PICTURE)
    np.testing.assert_array_equal(read_image(tmp_path / "x.mat", "all/1").array[0], VOLUME)
    assert cell_count(tmp_path / "x.mat", "all") == 2
    with pytest.raises(DataError, match=r"'all' has 2 cells, number 2 \(from 0\) is not there"):
        read_image(tmp_path / "x.mat", "all/2")
    with pytest.raises(DataError, match=r"'scan' is no cell array"):
        cell_count(tmp_path / "x.mat", "scan")


def test_only_the_wanted_cell_is_in_memory(tmp_path):
    """Ten cells of 4 MB that deflate to nothing; the last one is read."""
    import tracemalloc

    big = np.zeros((1024, 1024, 4), dtype=np.uint8)
    savemat(tmp_path / "x.mat", {"all": cells(*[big] * 9, big + 1)}, do_compression=True)
    tracemalloc.start()
    array = read_label(tmp_path / "x.mat", "all/9").array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.shape == (4, 1024, 1024)
    assert array.min() == 1
    assert peak < 12 * big.nbytes  # int64 copies of one cell, not of ten


@pytest.mark.parametrize(
    ("image", "case", "expected"),
    [
        ("a.png", "", "a.png"),
        ("a_0000.nii.gz", "a", "a.nii.gz"),
        ("a.JPG", "", "a.png"),
        ("a.gif", "", "a.png"),
        ("a.IMG", "", "a.png"),
        ("a.h5", "", "a.nii.gz"),
        ("oct.mhd", "TRAIN001", "TRAIN001.mhd"),
        ("all.mat", "subject01", "subject01.nii.gz"),
        ("x.dcm", "b/c", "b_c.nii.gz"),
    ],
)
def test_masks_are_named_by_case_in_a_format_that_holds_them(image, case, expected):
    assert mask_name(Path(image), case) == expected


def test_a_mask_of_an_hdf5_picture_is_written_and_read_back(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"] = VOLUME.transpose(2, 1, 0)
    picture = read_image(tmp_path / "x.h5", "image@xyz")
    mask = (picture.array[0] > 99).astype(np.uint8)
    write_onto(tmp_path / "x.nii.gz", mask, picture.geometry)
    np.testing.assert_array_equal(read_label(tmp_path / "x.nii.gz").array, mask)
