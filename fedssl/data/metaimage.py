"""What ITK's MetaImage reader does not check: it fills arrays of fixed length from the header."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path

from fedssl.errors import DataError

__all__ = ["check_metaimage"]

_HEADER_BYTES = 1 << 16
_LINE_BYTES = 1000
_PER_AXIS = {"elementspacing", "elementsize", "offset", "position", "origin"}
_PER_AXIS_PAIR = {"transformmatrix", "orientation", "rotation"}


def check_metaimage(path: Path) -> None:
    """Refuse a header that is no MetaImage header, or whose fields do not fit its dimensions.

    Raises:
        DataError: names the field and what it should hold.
    """
    fields = _fields(path)
    dims = _numbers(path, fields, "ndims", 1)[0]
    if dims not in (2, 3, 4):
        raise _wrong(path, "NDims", fields["ndims"], "2, 3 or 4")
    count = int(dims)
    sizes = _numbers(path, fields, "dimsize", count)
    if any(size < 1 or size != int(size) for size in sizes):
        raise _wrong(path, "DimSize", fields["dimsize"], f"{count} positive integers")
    for key in fields.keys() & _PER_AXIS:
        values = _numbers(path, fields, key, count)
        if key.startswith("element") and any(not 0 < abs(v) < 1e6 for v in values):
            raise _wrong(path, key, fields[key], f"{count} positive lengths in mm")
    for key in fields.keys() & _PER_AXIS_PAIR:
        _numbers(path, fields, key, count * count)


def _fields(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    end = re.search(rb"(?m)^\s*ElementDataFile\s*=.*$", head)
    lines = head[: end.end()].splitlines() if end else []
    if not lines or any(b"=" not in line or len(line) > _LINE_BYTES for line in lines if line):
        raise DataError(
            f"{path} has no MetaImage header (lines of 'key = value' up to ElementDataFile). "
            "Export the image again."
        )
    pairs = (line.decode("utf-8", "replace").split("=", 1) for line in lines if line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _numbers(path: Path, fields: dict[str, str], key: str, count: int) -> list[float]:
    text = fields.get(key, "")
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(isfinite, values)):
        raise _wrong(path, key, text, f"{count} numbers")
    return values


def _wrong(path: Path, key: str, text: str, wanted: str) -> DataError:
    return DataError(
        f"{path}: its header gives {key} = {text[:60]!r}, expected {wanted}. "
        "Export the image again."
    )
