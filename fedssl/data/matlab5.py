"""Version 5 .mat files, element by element.

A file is a header of 128 bytes and a row of elements: a tag (type, length) and data, padded to
eight bytes; four bytes of data or less stand in the tag itself. A variable is an element of matrix
type, plain or deflated, whose parts are elements again: flags, dimensions, name, and either numbers
or, of a cell array, matrices.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedssl.data.formats import check_claimed_size
from fedssl.errors import DataError

__all__ = ["CELL", "MatFile", "MatrixHeader"]

CELL = 1
"""Class number of cell arrays."""

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""NumPy codes of the element types that hold numbers."""

_NUMERIC_CLASSES = range(6, 16)
_COMPLEX_FLAG = 0x800
_HEADER_BYTES = 128
_LONGEST_PART = 4096
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class MatrixHeader:
    """What stands before a matrix's values: its class, shape and flags."""

    kind: int
    shape: tuple[int, ...]
    is_complex: bool


class MatFile:
    """A file that is read forwards. Every failure is a `DataError` that names it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> MatFile:
        self._file: BinaryIO = self.path.open("rb")
        try:
            self._order = self._byte_order(self._file.read(_HEADER_BYTES))
        except DataError:
            self._file.close()
            raise
        self._inflater: _Inflater | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, name: str) -> MatrixHeader:
        """Go to a variable's values and return its header."""
        names = []
        while True:
            start = self._file.tell()
            tag = self._file.read(8)
            if not tag:
                break
            kind, length = self._unpack("II", tag)
            if kind == _COMPRESSED:
                self._inflater = _Inflater(self._file, length)
                kind, _ = self._tag()
            if kind == _MATRIX:
                found, header = self._matrix_header()
                if found == name:
                    return header
                names.append(found)
            self._inflater = None
            self._file.seek(start + 8 + length)
        held = ", ".join(n for n in names if n) or "nothing"
        raise DataError(f"{self.path} has no variable {name!r}; it holds {held[:200]}.")

    def enter_cell(self, name: str, header: MatrixHeader, cell: int) -> MatrixHeader:
        """Go from a cell array's values to those of one cell and return its header."""
        if header.kind != CELL:
            raise DataError(f"{self.path}: {name!r} is no cell array.")
        if not 0 <= cell < prod(header.shape):
            raise DataError(
                f"{self.path}: {name!r} has {prod(header.shape)} cells, number {cell} (from 0) is "
                "not there."
            )
        for _ in range(cell):
            self._skip(self._matrix_length(name))
        if not self._matrix_length(name):
            raise DataError(f"{self.path}: cell {cell} of {name!r} is empty.")
        return self._matrix_header()[1]

    def numbers(self, name: str, header: MatrixHeader) -> np.ndarray:
        """Return a numeric matrix's values in MATLAB's order of axes."""
        if header.kind not in _NUMERIC_CLASSES or header.is_complex:
            raise DataError(
                f"{self.path}: {name!r} holds no array of real numbers (class {header.kind}); "
                "store numbers."
            )
        kind, length, inline = self._element_tag()
        if kind not in _NUMBERS:
            raise self._damaged(f"the values of {name!r} have the unknown type {kind}")
        dtype = np.dtype(self._order + _NUMBERS[kind])
        if length != prod(header.shape) * dtype.itemsize:
            raise self._damaged(
                f"{name!r} claims the shape {header.shape}, but holds {length} bytes"
            )
        if inline is None:
            check_claimed_size(self.path, length)
            inline = self._read(length)
        return np.frombuffer(inline, dtype).reshape(header.shape, order="F")

    def _byte_order(self, head: bytes) -> str:
        order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
        if order is None or struct.unpack(order + "H", head[124:126])[0] != 0x0100:
            raise DataError(
                f"{self.path} is no MATLAB file of version 5, 6, 7 or 7.3; save it again in MATLAB "
                "with -v7."
            )
        return order

    def _matrix_header(self) -> tuple[str, MatrixHeader]:
        flags = self._small_part()
        dims = self._small_part()
        name = self._small_part()
        if len(flags) < 8 or len(dims) < 8 or len(dims) % 4:
            raise self._damaged("a variable has no proper header")
        word = self._unpack("I", flags[:4])[0]
        shape = tuple(self._unpack(f"{len(dims) // 4}i", dims))
        if any(n < 0 for n in shape):
            raise self._damaged(f"a variable claims the shape {shape}")
        header = MatrixHeader(word & 0xFF, shape, bool(word & _COMPLEX_FLAG))
        return name.decode("utf-8", "replace"), header

    def _small_part(self) -> bytes:
        _, length, inline = self._element_tag()
        if inline is not None:
            return inline
        if length > _LONGEST_PART:
            raise self._damaged(f"a variable's header claims {length} bytes")
        data = self._read(length)
        self._skip(-length % 8)
        return data

    def _matrix_length(self, name: str) -> int:
        kind, length = self._tag()
        if kind != _MATRIX:
            raise self._damaged(f"a cell of {name!r} is no array")
        return length

    def _element_tag(self) -> tuple[int, int, bytes | None]:
        """Return type, length and, where they stand in the tag, the data."""
        tag = self._read(8)
        kind, length = self._unpack("II", tag)
        if kind >> 16:
            length = kind >> 16
            if length > 4:
                raise self._damaged(f"a short element claims {length} bytes")
            return kind & 0xFFFF, length, tag[4 : 4 + length]
        return kind, length, None

    def _tag(self) -> tuple[int, int]:
        kind, length = self._unpack("II", self._read(8))
        return kind, length

    def _unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack(self._order + code, data)
        except struct.error:
            raise self._damaged("it ends inside an element") from None

    def _read(self, count: int) -> bytes:
        try:
            data = self._inflater.read(count) if self._inflater else self._file.read(count)
        except zlib.error as error:
            raise self._damaged(str(error)) from None
        if len(data) < count:
            raise self._damaged("it ends inside an element")
        return data

    def _skip(self, count: int) -> None:
        if self._inflater is None:
            self._file.seek(count, 1)
            return
        while count > 0:
            count -= len(self._read(min(count, _CHUNK)))

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path} is damaged or cut off: {what}. Copy the file again.")


class _Inflater:
    """The inflated content of one element; never more than what is asked for is in memory."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._rest = file, length
        self._stream = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """Return `count` bytes, or less at the end."""
        parts, missing = [], count
        while missing:
            packed = self._stream.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._rest, 1 << 16))
                self._rest -= len(packed)
            part = self._stream.decompress(packed, missing)
            if not part and (not packed or self._stream.eof):
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
