"""DICOM series for the tests, written by GDCM."""

from __future__ import annotations

import locale
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name

EYE = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)


@contextmanager
def locale_kept() -> Iterator[None]:
    """GDCM's writer leaves the process in the C locale, where text files are ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def write_slice(path: Path, plane: np.ndarray, tags: dict[str, str], spacing=(1.0, 1.0)) -> None:
    """Write [H, W] or, of three colours, [H, W, 3] with the tags given."""
    image = sitk.GetImageFromArray(plane[np.newaxis], isVector=plane.ndim == 3)
    image.SetSpacing((*spacing, 1.0))
    for tag, value in {"0008|0060": "MR", "0020|000d": "1.2.3", **tags}.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    with locale_kept():
        writer.Execute(image)


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    spacing: Sequence[float] = (0.5, 0.75, 2.0),
    origin: Sequence[float] = (1.0, 2.0, 3.0),
    direction: Sequence[float] = EYE,
    uid: str = "1.2.826.0.1",
    description: str = "T1",
    name: str = "s{:03d}.dcm",
    leave_out: Sequence[int] = (),
    moved: Callable[[int, np.ndarray], np.ndarray] = lambda z, position: position,
) -> Path:
    """Write [D, H, W] as one file per slice, the last slice under the first name.

    Args:
        leave_out: slices that are not written.
        moved: given a slice's number and position, returns the position to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cosines = np.reshape(direction, (3, 3))
    rows_and_columns = np.concatenate([cosines[:, 0], cosines[:, 1]])
    for z, plane in enumerate(volume):
        if z in leave_out:
            continue
        position = moved(z, np.asarray(origin) + cosines[:, 2] * z * spacing[2])
        tags = {
            "0020|000e": uid,
            "0008|103e": description,
            "0020|0032": "\\".join(f"{v:.7g}" for v in position),
            "0020|0037": "\\".join(f"{v:.7g}" for v in rows_and_columns),
            "0020|0013": str(z + 1),
        }
        write_slice(folder / name.format(len(volume) - z), plane, tags, spacing[:2])
    return folder
