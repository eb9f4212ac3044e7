"""DICOM: a single file, or a folder that holds the slices of one series.

Slices are sorted by their positions, never by file names or instance numbers. The files of a folder
have to be one evenly spaced stack of parallel slices; anything else is refused with the reason, as
stacking it would give wrong distances without a sign of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.data.decoded import Decoded
from fedssl.data.dicom_elements import check_dicom
from fedssl.data.formats import format_of
from fedssl.data.geometry import Geometry
from fedssl.data.itk import itk_geometry, itk_header, itk_pixels, quiet
from fedssl.data.series import Slice, arranged
from fedssl.errors import DataError

__all__ = ["dicom_grid", "holds_dicom", "read_dicom", "series_files"]

_IMAGE_IO = "GDCMImageIO"
_PREAMBLE = 128
_SPACINGS = ("0028|0030", "0018|1164", "0018|2010")
"""Distance of rows and columns in the patient, at the detector, and of a scanned film."""
_MEASURES = (b"\x28\x00\x10\x91", b"\x00\x28\x91\x10")
"""Pixel Measures Sequence, where files of the enhanced kind keep it; either byte order."""
_NO_SLICES = {"dicomdir", "thumbs.db", "desktop.ini", "license", "version"}
_NOTES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".pdf")


def holds_dicom(folder: Path) -> bool:
    """Return whether a file in or below a folder is a DICOM file; one that is broken is none."""

    def found(path: Path) -> bool:
        file_format = format_of(path)
        if file_format is not None and file_format.name != "DICOM":
            return False  # need not be opened
        try:
            return _is_dicom(path)
        except DataError:
            return False

    return any(found(path) for path in _files(folder))


def series_files(folder: Path) -> list[Path]:
    """Return the files in and below a folder that can only be slices, sorted.

    Raises:
        DataError: there are none, or one is no DICOM file.
    """
    files = sorted(_files(folder))
    for path in files:
        if not _is_dicom(path):
            raise DataError(
                f"{path} is no DICOM file, but lies in {folder}, which is read as one series. "
                "Copy it again or move it out of the folder."
            )
    if not files:
        raise DataError(
            f"{folder} is a folder without DICOM files; give a file, or a folder of one series."
        )
    return files


def read_dicom(path: Path) -> Decoded:
    """Read a file or a folder of slices as [C, D, H, W] with its grid.

    The grid is in mm, unless the header has no spacing (secondary captures, endoscopy, ...).

    Raises:
        DataError: damaged, several series, missing or unevenly spaced slices, a tilted gantry, or
            several frames in one file.
    """
    if not path.is_dir():
        part, reader, physical = _opened(path)
        with quiet(path):
            return Decoded(itk_pixels(reader, path), _file_grid(part, reader), physical)
    slices, geometry = _series(path)
    layers, known = [], []
    for part in slices:
        _, reader, physical = _opened(part.path)
        known.append(physical)
        with quiet(part.path):
            layers.append(itk_pixels(reader, part.path)[:, 0])
    return Decoded(np.stack(layers, axis=1), geometry, all(known))


def dicom_grid(path: Path) -> Geometry:
    """Return the grid that `read_dicom` would give, from the headers."""
    if path.is_dir():
        return _series(path)[1]
    part, reader, _ = _opened(path)
    return _file_grid(part, reader)


def _file_grid(part: Slice, reader: sitk.ImageFileReader) -> Geometry:
    """Return the grid of one file; of some kinds of pictures ITK does not read the spacing."""
    grid = itk_geometry(reader, part.path)
    return replace(grid, spacing=(part.spacing[1], part.spacing[0], grid.spacing[2]))


def _series(folder: Path) -> tuple[Sequence[Slice], Geometry]:
    return arranged([_opened(path)[0] for path in series_files(folder)], folder)


def _opened(path: Path) -> tuple[Slice, sitk.ImageFileReader, bool]:
    """Read one header; the last value says whether it gives the spacing in mm."""
    check_dicom(path)
    with quiet(path):
        reader = itk_header(path, _IMAGE_IO)
        tags = _Tags(path, reader)
    frames = tags.text("0028|0008")
    if len(reader.GetSize()) != 3 or reader.GetSize()[2] != 1 or frames not in ("", "1"):
        raise DataError(
            f"{path} holds {frames or 'several'} frames; convert it to NIfTI, or export one file "
            "per slice."
        )
    columns, rows = reader.GetSize()[:2]
    spacing = _spacing(tags)
    return (
        Slice(
            path=path,
            series=tags.text("0020|000e"),
            description=tags.text("0008|103e"),
            shape=(reader.GetNumberOfComponents(), rows, columns),
            spacing=spacing or (1.0, 1.0),
            position=tags.numbers("0020|0032", 3),
            orientation=tags.numbers("0020|0037", 6),
        ),
        reader,
        bool(spacing),
    )


def _spacing(tags: _Tags) -> tuple[float, ...]:
    """Return the mm between rows and between columns, or () where the header has none (or 0)."""
    given = (tags.numbers(tag, 2) for tag in _SPACINGS)
    found = next((numbers for numbers in given if numbers and min(numbers) > 0), ())
    by_itk: tuple[float, ...] = tags.reader.GetSpacing()[1::-1]
    if found or by_itk != (1.0, 1.0):
        return found or by_itk
    # 1 is what ITK takes where it finds nothing, but a sequence that it reads may say so as well
    content = tags.path.read_bytes()
    return by_itk if any(tag in content for tag in _MEASURES) else ()


@dataclass(frozen=True, slots=True)
class _Tags:
    path: Path
    reader: sitk.ImageFileReader

    def text(self, tag: str) -> str:
        if not self.reader.HasMetaDataKey(tag):
            return ""
        return "".join(c for c in self.reader.GetMetaData(tag) if c.isprintable()).strip()[:200]

    def numbers(self, tag: str, count: int) -> tuple[float, ...]:
        """Return a tag's numbers, or () if it is not there."""
        text = self.text(tag)
        try:
            values = tuple(float(word) for word in text.split("\\")) if text else ()
        except ValueError:
            values = (float("nan"),)
        if text and (len(values) != count or not np.isfinite(values).all()):
            raise DataError(
                f"{self.path}: its tag ({tag.replace('|', ',')}) holds {text[:80]!r}, expected "
                f"{count} numbers. Export it again."
            )
        return values


def _is_dicom(path: Path) -> bool:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path} is no DICOM file but a pipe or a device. Remove it.")
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in and below a folder that are not known to be something else."""

    def failed(error: OSError) -> None:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}.") from None

    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in names:
            lower = name.lower()
            if not (name.startswith(".") or lower in _NO_SLICES or lower.endswith(_NOTES)):
                yield Path(place) / name
