from __future__ import annotations

import locale
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from dicom_files import EYE, locale_kept, write_series, write_slice

from fedssl.data.masks import mask_name, write_onto
from fedssl.data.readers import read_geometry, read_image, read_label
from fedssl.data.source import FolderSource
from fedssl.errors import DataError
from fedssl.federation import SiteSpec
from fedssl.types import Task

VOLUME = np.random.default_rng(5).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)


def test_a_folder_of_slices_is_a_volume_in_the_order_of_the_positions(tmp_path):
    """The files are named in the opposite order."""
    picture = read_image(write_series(tmp_path / "scan", VOLUME))
    np.testing.assert_array_equal(picture.array, VOLUME[None])
    assert picture.spacing == pytest.approx((2.0, 0.75, 0.5))
    assert picture.has_physical_spacing
    assert picture.geometry.origin == pytest.approx((1.0, 2.0, 3.0))
    assert read_geometry(tmp_path / "scan") == picture.geometry


@pytest.mark.parametrize(
    "direction",
    [EYE, (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), (1.0, 0, 0, 0, 0, 1.0, 0, -1.0, 0)],
    ids=["axial", "prone", "coronal"],
)
def test_a_series_reads_as_its_nifti_export_does(tmp_path, write_image, direction):
    series = read_image(write_series(tmp_path / "scan", VOLUME, direction=direction))
    exported = write_image(
        tmp_path / "x.nii.gz", VOLUME, direction=direction, spacing=(0.5, 0.75, 2), origin=(1, 2, 3)
    )
    nifti = read_image(exported)
    np.testing.assert_array_equal(series.array, nifti.array)
    assert series.spacing == pytest.approx(nifti.spacing)
    assert series.geometry.canonical_origin == pytest.approx(nifti.geometry.canonical_origin)


def test_an_oblique_series_goes_to_the_nearest_axes(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    direction = (-c, s, 0, -s, -c, 0, 0, 0, 1.0)
    picture = read_image(write_series(tmp_path / "scan", VOLUME, direction=direction))
    np.testing.assert_array_equal(picture.array[0], VOLUME[:, ::-1, ::-1])
    assert picture.spacing == pytest.approx((2.0, 0.75, 0.5), rel=1e-5)


def test_a_series_may_lie_in_folders_of_study_and_series_beside_notes(tmp_path):
    write_series(tmp_path / "scan" / "1.2.3" / "1.2.826", VOLUME)
    (tmp_path / "scan" / "LICENSE").write_text("free")
    (tmp_path / "scan" / "1.2.3" / "DICOMDIR").write_bytes(b"?")
    np.testing.assert_array_equal(read_image(tmp_path / "scan").array, VOLUME[None])


def test_one_file_is_one_slice(tmp_path):
    folder = write_series(tmp_path / "scan", VOLUME[:1])
    file = next(folder.iterdir())
    for place in (folder, file):
        picture = read_image(place)
        np.testing.assert_array_equal(picture.array, VOLUME[None, :1])
        assert picture.spacing[1:] == pytest.approx((0.75, 0.5))


def test_reading_leaves_the_locale_of_the_process(tmp_path):
    folder = write_series(tmp_path / "scan", VOLUME)
    before = locale.setlocale(locale.LC_ALL)
    read_image(folder)
    assert locale.setlocale(locale.LC_ALL) == before


def test_a_losslessly_compressed_file_reads(tmp_path):
    image = sitk.GetImageFromArray(VOLUME[:1].astype(np.uint16))
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "x.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    with locale_kept():
        writer.Execute(image)
    assert b"1.2.840.10008.1.2.4.70" in (tmp_path / "x.dcm").read_bytes()[:700]
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.dcm").array[0], VOLUME[:1].astype(np.uint16)
    )


def explicit(group: int, element: int, kind: bytes, value: bytes, *, length: int = -1) -> bytes:
    """Return one element; `length` claims another length than the value's."""
    size = length if length >= 0 else len(value)
    long = kind in (b"OB", b"OW", b"SQ")
    numbers = struct.pack("<HI", 0, size) if long else struct.pack("<H", size)
    return struct.pack("<HH", group, element) + kind + numbers + value


def explicit_file(*extra: bytes) -> bytes:
    """Return a slice in explicit little-endian syntax with elements before its pixels."""
    syntax = explicit(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    shorts = {0x02: 1, 0x10: 6, 0x11: 7, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 1}
    image = b"".join(explicit(0x28, e, b"US", struct.pack("<H", v)) for e, v in shorts.items())
    return b"".join(
        (
            bytes(128) + b"DICM",
            explicit(2, 0, b"UL", struct.pack("<I", len(syntax))),
            syntax,
            explicit(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.4\0"),
            *extra,
            explicit(0x28, 4, b"CS", b"MONOCHROME2 "),
            image,
            explicit(0x7FE0, 0x10, b"OW", VOLUME[0].tobytes()),
        )
    )


ENDLESS = 0xFFFFFFFF
INNER = explicit(8, 0x100, b"SH", b"CODE")
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, len(INNER)) + INNER
OPEN_ITEM = (
    struct.pack("<HHI", 0xFFFE, 0xE000, ENDLESS) + INNER + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
)
END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize(
    "sequence",
    [
        b"",
        explicit(8, 0x1032, b"SQ", ITEM),
        explicit(8, 0x1032, b"SQ", ITEM + OPEN_ITEM + END, length=ENDLESS),
        explicit(8, 0x1032, b"SQ", b""),
    ],
    ids=["plain", "closed sequence", "open sequence", "empty sequence"],
)
def test_explicit_files_with_sequences_read(tmp_path, sequence):
    (tmp_path / "x.dcm").write_bytes(explicit_file(sequence))
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm").array, VOLUME[None, :1])


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (explicit(8, 0x1032, b"SQ", ITEM, length=2**31), "longer than the file"),
        (explicit(8, 0x1032, b"SQ", ITEM[:4] + b"\xff\xff\0\0" + INNER), "longer than the file"),
        (explicit(8, 0x1032, b"SQ", INNER), "no item"),
        (explicit(8, 0x1032, b"!?", b""), "unknown type"),
        (explicit(8, 0x1032, b"SQ", OPEN_ITEM[:8] * 20, length=ENDLESS), "no item|nested|type"),
    ],
)
def test_lengths_and_sequences_that_do_not_fit_are_refused(tmp_path, sequence, message):
    (tmp_path / "x.dcm").write_bytes(explicit_file(sequence))
    with pytest.raises(DataError, match=rf"x\.dcm is damaged or cut off: .*({message})"):
        read_image(tmp_path / "x.dcm")


def test_the_rescaling_of_each_slice_is_applied(tmp_path):
    tags = {"0020|000e": "1.2", "0028|1052": "-1024", "0028|1053": "2"}
    values = (VOLUME[0].astype(int) * 2 - 1024).astype(np.int16)
    write_slice(tmp_path / "x.dcm", values, tags)  # GDCM stores (value - intercept) / slope
    assert values.tobytes() not in (tmp_path / "x.dcm").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm").array[0, 0], values)


def shifted(which: int, way: tuple[float, float, float]):
    return lambda z, position: position + np.asarray(way) * (z == which)


BROKEN = {
    "two series": (
        lambda folder: write_series(
            folder, VOLUME[:2], uid="9.9", description="scout", name="t{}.dcm"
        ),
        r"holds 2 series: 1\.2\.826\.0\.1 \(T1, 5 files\); 9\.9 \(scout, 2 files\)\. Move all but",
    ),
    "a copy of a slice": (
        lambda folder: write_series(folder, VOLUME[:1], name="copy{}.dcm"),
        r"shows one place twice: (copy1\.dcm and s005|s005\.dcm and copy1).*Keep one volume",
    ),
    "a stranger": (
        lambda folder: (folder / "s003.dcm").write_bytes(b"x" * 500),
        r"s003\.dcm is no DICOM file, but lies in .*scan.*Copy it again or move it",
    ),
    "a cut slice": (
        lambda folder: (folder / "s003.dcm").write_bytes((folder / "s003.dcm").read_bytes()[:-9]),
        r"s003\.dcm is damaged or cut off: an element is longer than the file",
    ),
    "a larger slice": (
        lambda folder: write_series(
            folder,
            np.zeros((1, 8, 7), np.int16),
            origin=(1, 2, 13),
            name="wide{}.dcm",
        ),
        r"slices of different sizes: .*\(1, 6, 7\).*\(1, 8, 7\).*scout",
    ),
    "a turned slice": (
        lambda folder: write_series(
            folder,
            VOLUME[:1],
            origin=(1, 2, 13),
            direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),
            name="turned{}.dcm",
        ),
        r"slices of different orientations",
    ),
    "another pixel size": (
        lambda folder: write_series(
            folder, VOLUME[:1], origin=(1, 2, 13), spacing=(1.0, 1.0, 2.0), name="coarse{}.dcm"
        ),
        r"slices of different sizes: .*mm.*at .*mm",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_makes_no_volume_is_refused_with_the_reason(tmp_path, what):
    folder = write_series(tmp_path / "scan", VOLUME)
    spoil, message = BROKEN[what]
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_image(folder)
    assert str(folder) in str(caught.value)


UNEVEN = {
    "a missing slice": ({"leave_out": [2]}, r"lacks 1 of 5 slices: between .*4 mm, elsewhere 2 mm"),
    "two missing slices": ({"leave_out": [1, 2]}, r"(lacks 2 of 5 slices|unevenly spaced)"),
    "uneven slices": (
        {"moved": shifted(3, (0, 0, 0.7))},
        r"unevenly spaced slices: the gaps are 1\.3 to 2\.7 mm, the widest behind s003\.dcm",
    ),
    "a tilted gantry": (
        {"moved": lambda z, position: position + np.array([0, 0.5 * z, 0])},
        r"tilted gantry: its slices shift sideways by 14\.0 degrees",
    ),
}


@pytest.mark.parametrize("what", UNEVEN)
def test_slices_that_form_no_even_stack_are_refused_with_the_reason(tmp_path, what):
    how, message = UNEVEN[what]
    folder = write_series(tmp_path / "scan", VOLUME, **how)
    with pytest.raises(DataError, match=message) as caught:
        read_image(folder)
    assert str(folder) in str(caught.value)


def test_positions_that_a_scanner_rounded_are_read(tmp_path):
    wobble = np.random.default_rng(1).uniform(-0.01, 0.01, (5, 3))
    folder = write_series(tmp_path / "scan", VOLUME, moved=lambda z, at: at + wobble[z])
    np.testing.assert_array_equal(read_image(folder).array, VOLUME[None])


def test_a_folder_without_dicom_files_is_named(tmp_path):
    (tmp_path / "scan").mkdir()
    with pytest.raises(DataError, match=r"scan is a folder without DICOM files; give"):
        read_image(tmp_path / "scan")


def test_series_are_cases_of_the_folders_layout_with_their_nifti_masks(tmp_path, write_image):
    for name in ("anna", "bert"):
        write_series(tmp_path / "images" / name, VOLUME)
    (tmp_path / "images" / "notes").mkdir()
    mask = (VOLUME > 0).astype(np.uint8)
    write_image(tmp_path / "labels" / "anna.nii.gz", mask, spacing=(0.5, 0.75, 2))
    spec = SiteSpec(name="north", path=str(tmp_path), role="mixed")
    source = FolderSource(spec, Task("t", ("background", "organ"), mode="3d"))
    assert [(c.name, c.has_label) for c in source.cases] == [("anna", True), ("bert", False)]
    case = source.read(0)
    np.testing.assert_array_equal(case.image, VOLUME[None])
    np.testing.assert_array_equal(case.label, mask)
    assert case.distance_unit == "mm"
    before = source.content_key()
    with next((tmp_path / "images" / "bert").iterdir()).open("ab") as file:
        file.write(b"changed")
    assert source.content_key() != before


def test_a_mask_of_a_series_is_written_as_nifti_on_its_grid(tmp_path):
    folder = write_series(tmp_path / "scan", VOLUME, direction=(1.0, 0, 0, 0, 0, 1.0, 0, -1.0, 0))
    picture = read_image(folder)
    assert mask_name(folder) == "scan.nii.gz"
    mask = (picture.array[0] > 0).astype(np.uint8)
    write_onto(tmp_path / mask_name(folder), mask, picture.geometry)
    stored = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored), VOLUME > 0)
    assert stored.GetOrigin() == pytest.approx((1, 2, 3))
    np.testing.assert_array_equal(read_label(tmp_path / "scan.nii.gz").array, mask)


def test_slices_without_positions_are_refused(tmp_path):
    for z in range(2):
        write_slice(tmp_path / f"{z}.dcm", VOLUME[z], {"0020|000e": "1.2", "0008|0060": "OT"})
    with pytest.raises(DataError, match=r"no position or orientation|one place twice"):
        read_image(tmp_path)
