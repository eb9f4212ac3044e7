"""HDF5 files that hold an image and, where there is one, its mask.

Only datasets of numbers inside the file itself are read: links to other files, virtual and external
datasets could make a file of images open any file of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
import numpy as np

from fedssl.data.decoded import Decoded, check_values, plain_grid, split_axes
from fedssl.data.formats import check_claimed_size
from fedssl.errors import DataError

__all__ = ["checked", "dataset_names", "hdf5_opened", "hdf5_shape", "read_hdf5"]

_BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError, OverflowError)


def read_hdf5(path: Path, key: str) -> Decoded:
    """Read one dataset, [H, W] or three axes.

    Args:
        path: the file.
        key: the dataset's name; `@xyz` behind it names the order of its axes if that is not `zyx`.

    Raises:
        DataError: no such dataset, no numbers, a link to elsewhere, or damaged.
    """
    name, axes = split_axes(key)
    with hdf5_opened(path) as file:
        array = np.asarray(_dataset(path, file, name)[()])
    return Decoded(array[np.newaxis], plain_grid(array.shape, axes))


def hdf5_shape(path: Path, name: str) -> tuple[int, ...]:
    """Return a dataset's shape without reading its values."""
    with hdf5_opened(path) as file:
        return tuple(_dataset(path, file, name).shape)


def dataset_names(path: Path) -> set[str]:
    """Return what the file holds at its top level.

    Raises:
        DataError: no HDF5 file, or damaged.
    """
    with hdf5_opened(path) as file:
        return set(file)


@contextmanager
def hdf5_opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; what the library raises becomes a `DataError`."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except _BROKEN as error:
        reason = " ".join(str(error).split()).strip("'\".") or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason[:300]}. Copy the file again.") from None


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    link = file.get(name, getlink=True) if name in file or name in set(file) else None
    if link is None:
        held = ", ".join(sorted(file)[:8]) or "nothing"
        raise DataError(
            f"{path} has no dataset {name!r}; it holds {held}. Store it as {name!r}, "
            "or use the layout h5 with the options image and label."
        )
    if isinstance(link, h5py.ExternalLink):
        raise _elsewhere(path, name)
    found = file.get(name)
    if found is not None and found.file != file:  # a link within the file may end in another
        raise _elsewhere(path, name)
    if not isinstance(found, h5py.Dataset):
        kind = "a group" if isinstance(found, h5py.Group) else "no dataset"
        raise DataError(f"{path}: {name!r} is {kind}; needed is a dataset of numbers.")
    return checked(path, found)


def _elsewhere(path: Path, name: str) -> DataError:
    return DataError(
        f"{path}: {name!r} is a link to another file, which is not followed. Store the values in "
        "the file itself."
    )


def checked(path: Path, dataset: h5py.Dataset) -> h5py.Dataset:
    """Refuse a dataset that is no image, lies elsewhere, or claims more than the file holds."""
    name = str(dataset.name).strip("/")
    if dataset.external or dataset.is_virtual:
        raise DataError(
            f"{path}: {name!r} keeps its values in other files, which are not opened. Store them "
            "in the file itself."
        )
    check_values(path, repr(name), dataset.shape, dataset.dtype)
    claimed = prod(int(n) for n in dataset.shape) * dataset.dtype.itemsize
    chunk = prod(int(n) for n in dataset.chunks or ()) * dataset.dtype.itemsize
    check_claimed_size(path, max(claimed, chunk))
    return dataset
