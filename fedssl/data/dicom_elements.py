"""What GDCM does not check in a DICOM file before it believes a length.

It looks for the end of a damaged element for minutes, so every length is compared with the file
first. Source: DICOM PS3.5, chapter 7 (data elements) and PS3.10, chapter 7 (file header).
"""

from __future__ import annotations

import struct
from pathlib import Path

from fedssl.errors import DataError

__all__ = ["check_dicom"]

_START = 132
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations whose length takes four bytes, and two (PS3.5, 7.1.2)."""
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS = (0x7FE0, 0x0010)
_SIZES = ((0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0002), (0x0028, 0x0100))
"""Rows, columns, samples per pixel, bits per sample."""
_SYNTAX = (0x0002, 0x0010)
_IMPLICIT = b"1.2.840.10008.1.2"
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def check_dicom(path: Path) -> None:
    """Walk all elements; each has to lie in the file.

    Raises:
        DataError: cut off, damaged, or of a transfer syntax that is not supported.
    """
    content = path.read_bytes()
    walker = _Walker(path, content)
    at, syntax = walker.meta(_START)
    if syntax == _DEFLATED:
        raise DataError(f"{path} is a deflated DICOM file, which cannot be read; export it plain.")
    walker.implicit = syntax == _IMPLICIT
    walker.order = ">" if syntax == _BIG_ENDIAN else "<"
    walker.elements(at, len(content), 0)
    if walker.pixel_bytes is None:
        raise DataError(f"{path} has no pixels (cut off, or a report?). Copy or export it again.")
    needed = walker.needed_bytes()
    if walker.pixel_bytes != _UNDEFINED and walker.pixel_bytes < needed:
        raise DataError(
            f"{path} is cut off: its header claims {needed} bytes of pixels, {walker.pixel_bytes} "
            "are there. Copy or export it again."
        )


class _Walker:
    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content
        self.order, self.implicit = "<", False
        self.pixel_bytes: int | None = None
        self._sizes: dict[tuple[int, int], int] = {}

    def needed_bytes(self) -> int:
        """Return what plain pixels of the claimed size take."""
        rows, columns, samples, bits = (self._sizes.get(tag, 1) for tag in _SIZES)
        # of three colours two may be stored at half the resolution
        return rows * columns * bits // 8 * (2 if samples == 3 else samples)

    def meta(self, at: int) -> tuple[int, bytes]:
        """Return where the data set begins, and its transfer syntax."""
        syntax = b""
        while self.content[at : at + 2] == b"\2\0":  # group 2, always little-endian and explicit
            tag, _, start, length = self._element(at)
            at = self._end(start, length)
            if tag == _SYNTAX:
                syntax = self.content[start:at].rstrip(b"\0 ")
        return at, syntax

    def elements(self, at: int, end: int, depth: int) -> int:
        """Walk elements up to `end`, or up to the mark that ends an item of unknown length."""
        if depth > _DEEPEST:
            raise self._damaged("its sequences are nested too deeply")
        while at < end:
            tag, kind, start, length = self._element(at)
            if tag == _ITEM_END:
                return start
            if depth == 0:
                self._note(tag, start, length)
            if length == _UNDEFINED:
                at = self._items(start, end, depth, encoded=tag == _PIXELS)
            else:
                at = self._end(start, length)
                if kind == b"SQ":
                    self._items(start, at, depth, encoded=False)
            if at > end:
                raise self._damaged("an element is longer than what it lies in")
        return at

    def _note(self, tag: tuple[int, int], start: int, length: int) -> None:
        if tag == _PIXELS:
            self.pixel_bytes = length
        elif tag in _SIZES and length >= 2 and start + 2 <= len(self.content):
            self._sizes[tag] = struct.unpack_from(self.order + "H", self.content, start)[0]

    def _items(self, at: int, end: int, depth: int, *, encoded: bool) -> int:
        """Walk the items of a sequence, or the fragments of encoded pixels."""
        while at < end:
            tag, length = self._tag(at)
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise self._damaged("a sequence holds something that is no item")
            if encoded:
                at = self._end(at, length)
            elif length == _UNDEFINED:
                at = self.elements(at, end, depth + 1)
            else:
                stop = self._end(at, length)
                self.elements(at, stop, depth + 1)
                at = stop
        return at

    def _element(self, at: int) -> tuple[tuple[int, int], bytes, int, int]:
        """Return tag, kind, where the value starts, and its length."""
        tag, length = self._tag(at)
        if tag[0] == 0xFFFE or (self.implicit and tag[0] != 2):
            return tag, b"", at + 8, length
        kind = self.content[at + 4 : at + 6]
        if kind in _SHORT:
            return tag, kind, at + 8, struct.unpack_from(self.order + "H", self.content, at + 6)[0]
        if kind not in _LONG:
            raise self._damaged(f"an element has the unknown type {kind!r}")
        if len(self.content) < at + 12:
            raise self._damaged("it ends inside an element")
        return tag, kind, at + 12, struct.unpack_from(self.order + "I", self.content, at + 8)[0]

    def _tag(self, at: int) -> tuple[tuple[int, int], int]:
        if len(self.content) < at + 8:
            raise self._damaged("it ends inside an element")
        group, element, length = struct.unpack_from(self.order + "HHI", self.content, at)
        return (group, element), length

    def _end(self, start: int, length: int) -> int:
        if start + length > len(self.content):
            raise self._damaged("an element is longer than the file")
        return start + length

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path} is damaged or cut off: {what}. Copy or export it again.")
