"""Files that are whole, but lie or are stored in ways that were misread or waited for."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from dicom_files import write_series, write_slice

from fedssl.data.check import check_site
from fedssl.data.readers import read_image
from fedssl.data.source import open_source
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

PICTURE = np.random.default_rng(0).integers(10, 200, (12, 10)).astype(np.uint16)
MASK = (PICTURE > 100).astype(np.uint8)
VOLUME = np.stack([PICTURE + i for i in range(4)]).astype(np.int16)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a pipe or a device"):
        read_image(tmp_path / "a.png")
    write_series(tmp_path / "series", VOLUME)
    os.mkfifo(tmp_path / "series/pipe")
    with pytest.raises(DataError, match=r"pipe is no DICOM file but a pipe"):
        read_image(tmp_path / "series")


def test_a_png_that_ends_before_its_header_is_refused(tmp_path):
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + end)
    with pytest.raises(DataError, match=r"a\.png is damaged: it does not begin with its header"):
        read_image(tmp_path / "a.png")


def test_a_link_inside_an_hdf5_file_that_leads_out_of_it_is_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["scan"] = PICTURE
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/")
        file["image"] = h5py.SoftLink("/elsewhere/scan")
    with pytest.raises(DataError, match=r"a\.h5: 'image' is a link to another file"):
        read_image(tmp_path / "a.h5")


def test_a_nrrd_header_with_its_pixels_beside_it_is_read(tmp_path):
    VOLUME.tofile(tmp_path / "a.raw")
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 10 12 4\nencoding: raw\nendian: little\n"
    (tmp_path / "a.nhdr").write_text(header + "data file: a.raw\n\n")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nhdr").array[0], VOLUME)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(DataError, match=r"a\.raw, which is missing"):
        read_image(tmp_path / "a.nhdr")


def test_axes_that_are_not_at_right_angles_are_refused(tmp_path, write_image):
    path = write_image(tmp_path / "a.mha", VOLUME)
    header = path.read_bytes()
    skewed = header.replace(b"= 1 0 0 0 1 0 0 0 1", b"= 1 0 0 .5 1 0 0 0 1")
    assert skewed != header
    path.write_bytes(skewed)
    with pytest.raises(DataError, match=r"a\.mha.*make no grid.*right angles"):
        read_image(path)


def test_a_radiograph_looks_the_same_whichever_way_its_values_run(tmp_path):
    path = tmp_path / "a.dcm"
    write_slice(path, PICTURE, {"0008|0060": "DX"})
    np.testing.assert_array_equal(read_image(path).array[0, 0], PICTURE)
    white_is_low = path.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1")
    path.write_bytes(white_is_low)
    turned = read_image(path).array[0, 0]
    assert len(np.unique(turned + PICTURE)) == 1


@pytest.mark.parametrize("mode", ["2d", "slices"])
def test_a_picture_may_be_the_mask_of_a_volume_of_one_slice(tmp_path, write_image, mode):
    (tmp_path / "images").mkdir()
    write_slice(tmp_path / "images/a.dcm", PICTURE, {"0008|0060": "CR"})
    write_image(tmp_path / "labels/a.png", MASK * np.uint8(255))
    spec = SiteSpec(name="s", path=str(tmp_path), role="labeled")
    task = Task("t", ("background", "lung"), mode=mode)
    assert check_site(spec, task).findings == ()
    label = open_source(spec, task).read(0).label
    np.testing.assert_array_equal(label if mode == "2d" else label[0], MASK)


def test_a_volume_of_one_slice_may_be_the_mask_of_a_picture(tmp_path, write_image):
    write_image(tmp_path / "images/a.png", PICTURE.astype(np.uint8))
    write_image(tmp_path / "labels/a.nii.gz", MASK[np.newaxis])
    spec = SiteSpec(name="s", path=str(tmp_path), role="labeled")
    case = open_source(spec, Task("t", ("background", "lung"), mode="2d")).read(0)
    np.testing.assert_array_equal(case.label, MASK)


def test_a_series_behind_many_other_files_is_found_and_they_are_named(tmp_path, write_image):
    folder = write_series(tmp_path / "images/p1", VOLUME, name="z{:03d}.dcm")
    for i in range(12):
        write_image(folder / f"a{i:02}.png", PICTURE.astype(np.uint8))
    spec = SiteSpec(name="s", path=str(tmp_path), role="unlabeled")
    (found,) = check_site(spec, Task("t", ("background", "lung"), mode="slices")).findings
    assert found.detail.startswith(f"{folder / 'a00.png'} is no DICOM file, but lies in {folder}")


def test_slices_at_one_place_are_told_apart_by_their_folders(tmp_path):
    folder = write_series(tmp_path / "p1", VOLUME)
    write_series(folder / "copy", VOLUME)
    both = f"{Path('copy/s004.dcm')} and s004.dcm|s004.dcm and {Path('copy/s004.dcm')}"
    with pytest.raises(DataError, match=rf"shows one place twice: ({both})"):
        read_image(folder)
