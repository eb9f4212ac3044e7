"""DICOM: a single file, or a folder that holds the slices of one series.

Slices are sorted by their positions, never by file names or instance numbers. The files of a folder
have to be one evenly spaced stack of parallel slices; anything else is refused with the reason, as
stacking it would give wrong distances without a sign of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """Read a file or a folder of slices as [C, D, H, W] with its grid in mm.

    Raises:
        DataError: damaged, several series, missing or unevenly spaced slices, a tilted gantry, or
            several frames in one file.
    """
    if not path.is_dir():
        _, reader = _opened(path)
        with quiet(path):
            return Decoded(itk_pixels(reader, path), itk_geometry(reader, path), physical=True)
    slices, geometry = _series(path)
    layers = []
    for part in slices:
        _, reader = _opened(part.path)
        with quiet(part.path):
            layers.append(itk_pixels(reader, part.path)[:, 0])
    return Decoded(np.stack(layers, axis=1), geometry, physical=True)


def dicom_grid(path: Path) -> Geometry:
    """Return the grid that `read_dicom` would give, from the headers."""
    if path.is_dir():
        return _series(path)[1]
    _, reader = _opened(path)
    return itk_geometry(reader, path)


def _series(folder: Path) -> tuple[Sequence[Slice], Geometry]:
    return arranged([_opened(path)[0] for path in series_files(folder)], folder)


def _opened(path: Path) -> tuple[Slice, sitk.ImageFileReader]:
    """Read one header."""
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
    return (
        Slice(
            path=path,
            series=tags.text("0020|000e"),
            description=tags.text("0008|103e"),
            shape=(reader.GetNumberOfComponents(), rows, columns),
            spacing=tags.numbers("0028|0030", 2) or reader.GetSpacing()[1::-1],
            position=tags.numbers("0020|0032", 3),
            orientation=tags.numbers("0020|0037", 6),
        ),
        reader,
    )


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
