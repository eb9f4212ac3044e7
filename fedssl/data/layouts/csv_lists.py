"""`csv`: lists of paths, as `train.csv`, `val.csv`, `test.csv` and `unlabeled.csv`.

Columns are `image_path,mask_path` or `img_path,seg_path`, or the first two without such names; a
column `subject` or `patient_id` says whose image it is. Paths start at the list's folder or at the
option `root`. An empty or missing mask means an unlabeled image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedssl.data.formats import FORMATS, format_of
from fedssl.data.layouts.cases import BINARY, CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.lists import is_there, read_rows
from fedssl.data.layouts.tree import named, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_LISTS = ("train", "val", "test", "unlabeled")
_IMAGE = ("image_path", "img_path", "image", "img")
_MASK = ("mask_path", "seg_path", "label_path", "mask", "seg", "label")
_SUBJECT = ("subject", "patient_id", "patient")


@dataclass(frozen=True, slots=True)
class _Row:
    image: Path
    mask: Path | None
    subject: str
    part: str


@layout(
    "csv",
    options={
        **{name: f"list of {name} images ({name}.csv, if it exists)" for name in _LISTS},
        "root": "folder where the paths in the lists start (each list's own)",
    },
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the images of all lists; the lists are the split if val or test is among them.

    Raises:
        DataError: no list, a path that does not exist, or an image in two lists.
    """
    folder = site_folder(spec.path, spec.name)
    lists = {name: _list(spec, folder, name) for name in _LISTS}
    given = {name: path for name, path in lists.items() if path is not None}
    if not given:
        expected = "train.csv or another list, named in options"
        raise wrong_tree(spec, folder, "csv", expected)
    rows: dict[Path, _Row] = {}
    listed: dict[Path, str] = {}
    for name, path in given.items():
        base = folder / str(spec.options["root"]) if "root" in spec.options else path.parent
        for row in _rows(path, base, name):
            file = row.image.resolve()  # a link to a listed image is the same image
            if file in listed:
                raise DataError(
                    f"{path} lists {row.image}, which is listed already ({listed[file]}); an "
                    "image belongs to one list, once."
                )
            listed[file] = name
            rows[row.image] = row
    splits = {"val", "test"} & given.keys()
    names = named(Path(os.path.commonpath([path.parent for path in rows])), rows)
    return [
        CaseFile(
            stem,
            rows[path].subject or stem,
            path,
            rows[path].mask,
            code=BINARY,
            split=rows[path].part if splits and rows[path].part in ("train", *splits) else "",
        )
        for stem, path in names.items()
    ]


def _list(spec: SiteSpec, folder: Path, name: str) -> Path | None:
    path = folder / str(spec.options.get(name, f"{name}.csv"))
    if name in spec.options and not path.is_file():
        raise DataError(f"Site {spec.name!r}: its list {path} does not exist.")
    return path if path.is_file() else None


def _rows(path: Path, base: Path, part: str) -> list[_Row]:
    table = read_rows(path)
    if not table:
        raise DataError(f"{path} lists nothing; write image_path,mask_path and a row per image.")
    header = [cell.casefold() for cell in table[0]]
    headless = table[0][0].lower().endswith(tuple(FORMATS))
    image = _column(header, _IMAGE, 0)
    mask = _column(header, _MASK, 1 if headless else -1)
    subject = _column(header, _SUBJECT, -1)
    if mask < 0 and part != "unlabeled":
        _check_columns(path, table, image)
    rows = []
    for number, cells in enumerate(table if headless else table[1:], 1 if headless else 2):
        named_mask = "" if part == "unlabeled" else _cell(cells, mask)
        rows.append(
            _Row(
                _existing(base, _cell(cells, image), path, number),
                _existing(base, named_mask, path, number) if named_mask else None,
                _cell(cells, subject),
                part,
            )
        )
    return rows


def _check_columns(path: Path, table: Sequence[Sequence[str]], image: int) -> None:
    """Refuse a list that seems to name masks in a column of a name that is not known."""
    for column, name in enumerate(table[0]):
        cells = [_cell(row, column) for row in table[1:]]
        if column != image and any(format_of(Path(cell)) is not None for cell in cells if cell):
            raise DataError(
                f"{path} has files in the column {name!r}. If they are masks, call it mask_path; "
                "else remove it."
            )


def _column(header: Sequence[str], names: Sequence[str], default: int) -> int:
    return next((header.index(name) for name in names if name in header), default)


def _cell(cells: Sequence[str], column: int) -> str:
    return cells[column] if 0 <= column < len(cells) else ""


def _existing(base: Path, given: str, path: Path, number: int) -> Path:
    if not given:
        raise DataError(f"{path}, row {number} names no image; remove the row or complete it.")
    found = base / given.replace("\\", "/")
    if not is_there(found):
        raise DataError(
            f"{path}, row {number}: {str(found)[:300]} does not exist. Paths start at the list's "
            "folder, or at options = { root = ... }."
        )
    # Not resolved: where files are links, the link has the name and the suffix.
    return Path(os.path.abspath(found))  # noqa: PTH100 -- Path.absolute keeps '..'
