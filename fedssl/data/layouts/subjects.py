"""`index.csv`: whose image each case is, where file names do not tell."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from fedssl.data.formats import stem_of
from fedssl.data.layouts.lists import read_table
from fedssl.errors import DataError

__all__ = ["indexed_subjects"]

log = logging.getLogger("fedssl")


def indexed_subjects(site: Path, names: list[str], called: str = "") -> dict[str, str]:
    """Return the subject of each case by its name; nothing if there is no index of the site.

    Rows of the site are those with its folder's name in the column `site`, else those with its own
    name. An index without that column serves one site: in the folder above it counts if it names a
    case.

    Args:
        site: the site's folder.
        names: of its cases.
        called: the site's name in the federation file, where that is another.

    Raises:
        DataError: a broken index, or one that lacks cases.
    """
    for index in (site / "index.csv", site.parent / "index.csv"):
        if index.is_file():
            rows = _index_rows(index)
            sited = [row for row in rows if row.get("site")]
            own = _rows_of(sited, (site.name, called)) if sited else rows
            if index.parent == site:
                return _named(own or rows, names, index)
            listed = {_name(row) for row in rows}
            if own and (sited or listed & set(names)):
                return _named(own, names, index)
            if listed >= set(names):
                log.warning(
                    "%s lists all images of %s, but under other sites, so each counts as a subject "
                    "of its own. The column site holds the folder's name, %r.",
                    *(index, site, site.name),
                )
    return {}


def _rows_of(rows: list[dict[str, str]], sites: Sequence[str]) -> list[dict[str, str]]:
    found = ([row for row in rows if row["site"] == site] for site in sites)
    return next((own for own in found if own), [])


def _name(row: dict[str, str]) -> str:
    return unicodedata.normalize("NFC", stem_of(row["id"]))


def _index_rows(index: Path) -> list[dict[str, str]]:
    rows = read_table(index, "id", "subject")
    if any(not row.get("id") or not row.get("subject") for row in rows):
        raise DataError(
            f"{index} needs the columns id and subject (and site, if it serves several sites), "
            "filled in every row. Complete it."
        )
    return rows


def _named(rows: list[dict[str, str]], names: list[str], index: Path) -> dict[str, str]:
    subjects: dict[str, str] = {}
    for row in rows:
        name = _name(row)
        subject = row["subject"]
        if subjects.setdefault(name, subject) != subject:
            raise DataError(
                f"{index} gives {name!r} two subjects: {subjects[name]!r} and {subject!r}."
            )
    missing = [name for name in names if name not in subjects]
    if missing:
        raise DataError(
            f"{index} has no row for {missing[0]!r} ({len(missing)} cases are missing); add their "
            "subjects, so that a split never cuts a subject."
        )
    return subjects
