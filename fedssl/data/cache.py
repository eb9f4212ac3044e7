"""Prepared arrays on disk: written once, complete or not there at all, memory-mapped ever after.

A prepared site is a folder `<site key>/` with `images.npy` (one flat float32 array), `labels.npy`
(one flat uint8 array) and `index.json` (where each case lies in them). It is filled under another
name and renamed when it is complete, so a killed process leaves nothing that passes for finished.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedssl.data.cropping import Box
from fedssl.errors import DataError

__all__ = [
    "FORMAT_VERSION",
    "CacheWriter",
    "PreparedCase",
    "PreparedSite",
    "default_cache_dir",
    "open_prepared",
]

FORMAT_VERSION = 4
_ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """One case in the prepared arrays.

    Args:
        name: unique within the site.
        subject: whose image it is.
        channels: of the prepared image.
        shape: *S of the prepared image and label.
        image_offset: position of its first value in `images.npy`.
        label_offset: the same in `labels.npy`; -1 without a mask.
        spacing: per axis of `shape`, in `distance_unit`.
        distance_unit: `mm` or `pixel`.
        original_shape: *S before cropping and resizing.
        box: what of `original_shape` was kept.
        split: `train`, `val` or `test` where the data set publishes a split, else empty.
    """

    name: str
    subject: str
    channels: int
    shape: tuple[int, ...]
    image_offset: int
    label_offset: int
    spacing: tuple[float, ...]
    distance_unit: str
    original_shape: tuple[int, ...]
    box: Box
    split: str = ""

    @property
    def has_label(self) -> bool:
        """Whether there is a mask."""
        return self.label_offset >= 0


class PreparedSite:
    """A site's prepared cases. `labels.npy` is opened by `label` only.

    Args:
        folder: a complete prepared folder.
        cases: what its index lists.
    """

    def __init__(self, folder: Path, cases: Sequence[PreparedCase]) -> None:
        self.folder = folder
        self.cases = tuple(cases)
        self._images: np.ndarray | None = None
        self._labels: np.ndarray | None = None

    def image(self, index: int) -> np.ndarray:
        """Return a read-only view of an image [C, *S] float32."""
        if self._images is None:
            self._images = np.load(self.folder / "images.npy", mmap_mode="r")
        case = self.cases[index]
        shape = (case.channels, *case.shape)
        return _window(self._images, case.image_offset, shape)

    def label(self, index: int) -> np.ndarray:
        """Return a read-only view of a mask [*S] uint8.

        Raises:
            DataError: the case has none.
        """
        case = self.cases[index]
        if not case.has_label:
            raise DataError(f"Case {case.name!r} has no mask; add one or leave it unlabeled.")
        if self._labels is None:
            self._labels = np.load(self.folder / "labels.npy", mmap_mode="r")
        return _window(self._labels, case.label_offset, case.shape)


def _window(flat: np.ndarray, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    return flat[offset : offset + int(np.prod(shape))].reshape(shape)


def default_cache_dir() -> Path:
    """Return the user's cache folder for fedssl, or a temporary one where that is not writable."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    wanted = (Path(base) if base else Path("~/.cache").expanduser()) / "fedssl"
    with suppress(OSError):
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"fedssl-cache-{owner}"
    fallback.mkdir(mode=0o700, parents=True, exist_ok=True)
    return fallback


def open_prepared(cache_dir: Path, key: str) -> PreparedSite | None:
    """Return a finished prepared site, or None if there is none or it is damaged."""
    folder = cache_dir / key
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index["version"] != FORMAT_VERSION:
            return None
        cases = [_case(row) for row in index["cases"]]
        for name, size in index["bytes"].items():
            if (folder / name).stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return PreparedSite(folder, cases)


def _case(row: dict[str, Any]) -> PreparedCase:
    return PreparedCase(**{name: _tuples(value) for name, value in row.items()})


def _tuples(value: Any) -> Any:
    """Return JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class CacheWriter:
    """Writes a prepared site case by case; a context manager that removes what is not finished.

    Args:
        cache_dir: where prepared sites lie.
        key: name of this one.
    """

    def __init__(self, cache_dir: Path, key: str) -> None:
        self._target = cache_dir / key
        self._cases: list[PreparedCase] = []
        with _writing(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(cache_dir)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=cache_dir))
        self._images = _FlatArray(self._folder / "images.npy", np.dtype("<f4"))
        self._labels = _FlatArray(self._folder / "labels.npy", np.dtype("u1"))

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for flat in (self._images, self._labels):
            with suppress(OSError):  # what could not be written is told by who wrote it
                flat.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(
        self,
        image: np.ndarray,
        label: np.ndarray | None,
        *,
        name: str,
        subject: str,
        spacing: tuple[float, ...],
        distance_unit: str,
        original_shape: tuple[int, ...],
        box: Box,
        split: str = "",
    ) -> None:
        """Append one case: image [C, *S], label [*S] or None."""
        with _writing(self._folder):
            image_offset = self._images.append(image)
            label_offset = -1 if label is None else self._labels.append(label)
        self._cases.append(
            PreparedCase(
                name,
                subject,
                len(image),
                tuple(image.shape[1:]),
                image_offset,
                label_offset,
                tuple(spacing),
                distance_unit,
                tuple(original_shape),
                box,
                split,
            )
        )

    def finish(self) -> None:
        """Make the folder complete and give it its name; another process may have been first."""
        with _writing(self._folder):
            for flat in (self._images, self._labels):
                flat.finish()
            sizes = {n: (self._folder / n).stat().st_size for n in ("images.npy", "labels.npy")}
            index = {
                "version": FORMAT_VERSION,
                "bytes": sizes,
                "cases": [asdict(case) for case in self._cases],
            }
            with (self._folder / "index.json").open("w", encoding="utf-8") as file:
                json.dump(index, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
        self._publish()

    def _publish(self) -> None:
        try:
            self._rename()
        except OSError:  # a damaged one goes; another process may be doing the same
            damaged = self._folder.with_suffix(".damaged.tmp")
            with suppress(OSError):
                self._target.rename(damaged)
            self._rename()
            shutil.rmtree(damaged, ignore_errors=True)

    def _rename(self) -> None:
        """Rename, then look: between a look and the renaming another process may finish."""
        try:
            self._folder.rename(self._target)
        except OSError:
            if open_prepared(self._target.parent, self._target.name) is None:
                raise


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache folder {folder} cannot be written: {error.strerror or error}. Set "
            "cache-dir to a folder with room for the prepared images."
        ) from None


class _FlatArray:
    """A one-dimensional .npy file whose length is known at the end only."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.file: BinaryIO = path.open("wb")
        self._dtype = dtype
        self._length = 0
        self._write_header()

    def append(self, array: np.ndarray) -> int:
        """Append values and return the position of the first."""
        offset = self._length
        self.file.write(np.ascontiguousarray(array, dtype=self._dtype).tobytes())
        self._length += array.size
        return offset

    def finish(self) -> None:
        """Write the true length into the header; NumPy leaves room for its digits."""
        end = self.file.tell()
        self.file.seek(0)
        self._write_header()
        self.file.seek(end)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _remove_abandoned(cache_dir: Path) -> None:
    """Remove what processes that were killed a day ago or earlier have left."""
    for path in cache_dir.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
