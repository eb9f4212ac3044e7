"""MATLAB's .mat files: numeric arrays, or the arrays in a cell array, one at a time.

SciPy's reader takes a whole variable into memory. A data set kept as one cell array of all subjects
is larger than that, so here a file of version 5 is walked element by element and only the wanted
array is kept. A file of version 7.3 is an HDF5 file.

Format: MathWorks, "MAT-File Format" (version 5 files).
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from fedssl.data.decoded import Decoded, check_values, plain_grid
from fedssl.data.formats import check_claimed_size
from fedssl.data.matlab5 import CELL, MatFile
from fedssl.data.matlab73 import cells_v73, is_v73, read_v73
from fedssl.errors import DataError

__all__ = ["cell_count", "read_matlab"]


def read_matlab(path: Path, key: str) -> Decoded:
    """Read [H, W] or, with MATLAB's third axis first, [D, H, W].

    Args:
        path: the file.
        key: the variable's name; for a cell array with the cell's number, as in `AllSubjects/0`.

    Raises:
        DataError: no such variable or cell, no numbers, or damaged.
    """
    name, _, number = key.partition("/")
    cell = int(number) if number else None
    array = read_v73(path, name, cell) if is_v73(path) else _read_v5(path, name, cell)
    check_values(path, repr(key), array.shape, array.dtype)
    if array.ndim == 3:
        array = np.moveaxis(array, -1, 0)
    return Decoded(array[np.newaxis], plain_grid(array.shape))


def cell_count(path: Path, name: str) -> int:
    """Return how many cells a cell array has.

    Raises:
        DataError: there is no cell array of that name.
    """
    if is_v73(path):
        return cells_v73(path, name)
    with MatFile(path) as file:
        header = file.find(name)
    if header.kind != CELL:
        raise DataError(f"{path}: {name!r} is no cell array; needed is one cell per subject.")
    check_claimed_size(path, 8 * prod(header.shape))  # a cell takes a tag of 8 bytes at least
    return prod(header.shape)


def _read_v5(path: Path, name: str, cell: int | None) -> np.ndarray:
    with MatFile(path) as file:
        header = file.find(name)
        if cell is not None:
            header = file.enter_cell(name, header, cell)
        return file.numbers(name, header)
