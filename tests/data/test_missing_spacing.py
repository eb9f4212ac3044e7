"""Headers without a spacing: distances are in pixels, not in millimetres of 1.0."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from fedssl.data.readers import read_geometry, read_image
from fedssl.data.source import FolderSource
from fedssl.federation import SiteSpec
from fedssl.types import Output, Task

RADIOGRAPH, ULTRASOUND, CAPTURE = (
    b"1.2.840.10008.5.1.4.1.1.1\0",
    b"1.2.840.10008.5.1.4.1.1.6.1\0",
    b"1.2.840.10008.5.1.4.1.1.7\0",
)
SYNTAX = b"1.2.840.10008.1.2.1\0"


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """Return one data element, explicit and little-endian."""
    length = struct.pack("<HI", 0, len(value)) if kind == b"OW" else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


def write_dicom(path: Path, kind: bytes, spacing: bytes = b"", group: int = 0, number: int = 0):
    """Write a picture [6, 8] with a spacing in the tag given, if any."""
    extra = element(group, number, b"DS", spacing) if group else b""
    sizes = {2: 1, 0x10: 6, 0x11: 8, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 0}
    shorts = {n: element(0x28, n, b"US", struct.pack("<H", v)) for n, v in sizes.items()}
    in_order = {**shorts, 4: element(0x28, 4, b"CS", b"MONOCHROME2 ")}
    if group == 0x28:
        in_order[number] = extra
    meta = element(2, 0x10, b"UI", SYNTAX)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes(128)
        + b"DICM"
        + element(2, 0, b"UL", struct.pack("<I", len(meta)))
        + meta
        + element(8, 0x16, b"UI", kind)
        + (extra if group == 0x18 else b"")
        + b"".join(in_order[n] for n in sorted(in_order))
        + element(0x7FE0, 0x10, b"OW", np.arange(48, dtype="<u2").tobytes())
    )
    return path


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        *((kind, spacing) for kind in (RADIOGRAPH, ULTRASOUND, CAPTURE) for spacing in (None, b"")),
        (RADIOGRAPH, b"0\\0 "),
    ],
)
def test_dicom_without_spacing_is_in_pixels(tmp_path, kind, spacing):
    path = tmp_path / "scan/x.dcm"
    write_dicom(path, kind, spacing or b"", 0 if spacing is None else 0x28, 0x30)
    for place in (path, path.parent):
        picture = read_image(place)
        assert not picture.has_physical_spacing
        assert picture.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", [RADIOGRAPH, ULTRASOUND, CAPTURE])
@pytest.mark.parametrize("tag", [(0x28, 0x30), (0x18, 0x1164), (0x18, 0x2010)])
@pytest.mark.parametrize("spacing", [(0.25, 0.5), (1.0, 1.0)])
def test_the_spacing_of_dicom_is_that_of_its_tag(tmp_path, kind, tag, spacing):
    text = "\\".join(map(str, spacing)).encode()
    path = write_dicom(tmp_path / "scan/x.dcm", kind, text.ljust(8), *tag)
    for place in (path, path.parent):
        picture = read_image(place)
        assert picture.has_physical_spacing
        assert picture.spacing[1:] == spacing
        assert read_geometry(place) == picture.geometry


def test_results_of_a_site_of_such_files_are_in_pixels(tmp_path):
    write_dicom(tmp_path / "images/x.dcm", CAPTURE)
    task = Task("t", ("background", "lesion"), "2d", Output.EXCLUSIVE, 1)
    case = FolderSource(SiteSpec(name="n", path=str(tmp_path), role="unlabeled"), task).read(0)
    assert (case.spacing, case.distance_unit) == ((1.0, 1.0), "pixel")


@pytest.mark.parametrize(
    ("lines", "spacing"),
    [
        ("", None),
        ("# spacings: 2 2 2\n", None),
        ("spacings: nan nan nan\n", None),
        ("note:=spacings: 2\n", None),
        ("spacings: 1 1 1\n", (1.0, 1.0, 1.0)),
        ("spacings: 0.5 2 3\n", (3.0, 2.0, 0.5)),
        ("Spacings: 0.5 2 3\n", (3.0, 2.0, 0.5)),
        (
            "space: left-posterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n",
            (3.0, 2.0, 1.0),
        ),
    ],
)
def test_nrrd_has_a_spacing_only_if_its_header_says_so(tmp_path, lines, spacing):
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\n{lines}encoding: raw\n\n"
    # pixels that look like a header tell nothing
    pixels = b"spacings: 7 7 7\nspacings: 7 7 7\n\n".ljust(64)
    (tmp_path / "v.nrrd").write_bytes(head.encode() + pixels)
    picture = read_image(tmp_path / "v.nrrd")
    assert picture.has_physical_spacing == (spacing is not None)
    assert picture.spacing == (spacing or (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("line", "spacing"),
    [
        ("", None),
        ("ElementSpacing = 1 1 1\n", (1.0, 1.0, 1.0)),
        ("ElementSpacing=0.5 2 3\n", (3.0, 2.0, 0.5)),
        ("ElementSize = 0.5 2 3\n", (3.0, 2.0, 0.5)),
        ("elementspacing = 0.5 2 3\n", None),  # ITK does not know it in small letters
    ],
)
def test_metaimage_has_a_spacing_only_if_its_header_says_so(tmp_path, line, spacing):
    head = f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\n{line}ElementType = MET_UCHAR\n"
    pixels = b"\nElementSpacing = 7 7 7\n".ljust(64)
    (tmp_path / "v.mha").write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + pixels)
    picture = read_image(tmp_path / "v.mha")
    assert picture.has_physical_spacing == (spacing is not None)
    assert picture.spacing == (spacing or (1.0, 1.0, 1.0))
