"""The tables and JSON files that data sets come with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from fedssl.errors import DataError

__all__ = ["is_there", "read_json", "read_rows", "read_table"]


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, without empty ones; cells are stripped.

    Commas part the cells or, where the first line has none, semicolons or tabs.

    Raises:
        DataError: it cannot be read as CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            parted = next((mark for mark in ",;\t" if mark in first), ",")
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=parted)]
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV in UTF-8 ({error}). Save it as CSV in UTF-8."
        ) from None
    return [row for row in rows if any(row)]


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header by column.

    Args:
        path: the file.
        columns: those it has to have.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    rows = read_rows(path)
    header = rows[0] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}; needed are {', '.join(columns)}, found: "
            f"{', '.join(header)[:300] or 'nothing'}. Add it."
        )
    return [dict(zip(header, row, strict=False)) for row in rows[1:]]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}). Copy it again.") from None
    if not isinstance(table, dict):
        raise DataError(
            f"{path} holds a {type(table).__name__}, but a JSON object is needed. Copy it again."
        )
    return table


def is_there(path: Path) -> bool:
    """Return whether a file that a list names exists; no file has a name too long for the disk."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
