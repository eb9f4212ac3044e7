"""Version 7.3 .mat files: HDF5 with the axes reversed and cells as references."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from fedssl.data.hdf5 import checked, hdf5_opened
from fedssl.errors import DataError

__all__ = ["cells_v73", "is_v73", "read_v73"]


def is_v73(path: Path) -> bool:
    """Return whether a .mat file is one of version 7.3; its HDF5 part starts at byte 512."""
    with path.open("rb") as file:
        head = file.read(520)
    return head[512:520] == b"\x89HDF\r\n\x1a\n" or head[:8] == b"\x89HDF\r\n\x1a\n"


def read_v73(path: Path, name: str, cell: int | None) -> np.ndarray:
    """Return an array, or one cell of a cell array, in MATLAB's order of axes.

    Raises:
        DataError: no such variable or cell, no numbers, or damaged.
    """
    with hdf5_opened(path) as file:
        found = _variable(path, file, name)
        if cell is not None:
            found = _cell(path, file, found, name, cell)
        return np.asarray(checked(path, found)[()]).T


def cells_v73(path: Path, name: str) -> int:
    """Return how many cells a cell array has."""
    with hdf5_opened(path) as file:
        return int(_references(path, _variable(path, file, name), name).size)


def _variable(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    names = [n for n in file if not n.startswith("#")]
    link = file.get(name, getlink=True) if name in names else None
    if link is None or isinstance(link, h5py.ExternalLink):
        raise DataError(
            f"{path} has no variable {name!r} of its own; it holds "
            f"{', '.join(names)[:200] or 'nothing'}."
        )
    found = file.get(name)
    if not isinstance(found, h5py.Dataset) or found.file != file:
        raise DataError(f"{path}: {name!r} is no array; store numbers or a cell array of them.")
    return found


def _references(path: Path, dataset: h5py.Dataset, name: str) -> h5py.Dataset:
    if dataset.dtype != h5py.ref_dtype or not dataset.shape or dataset.size > 1 << 20:
        raise DataError(f"{path}: {name!r} is no cell array; needed is one cell per subject.")
    return dataset


def _cell(path: Path, file: h5py.File, dataset: h5py.Dataset, name: str, cell: int) -> h5py.Dataset:
    references = np.asarray(_references(path, dataset, name)[()]).ravel()
    if not 0 <= cell < references.size:
        raise DataError(
            f"{path}: {name!r} has {references.size} cells, number {cell} (from 0) is not there."
        )
    found = file[references[cell]] if references[cell] else None
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: cell {cell} of {name!r} holds no array.")
    return found
