"""`index.csv`: whose image each case is, where file names do not tell."""

from __future__ import annotations

from pathlib import Path

from fedssl.data.formats import stem_of
from fedssl.data.layouts.lists import read_table
from fedssl.errors import DataError

__all__ = ["indexed_subjects"]


def indexed_subjects(site: Path, names: list[str]) -> dict[str, str]:
    """Return the subject of each case by its name; nothing if there is no index of the site.

    Args:
        site: the site's folder.
        names: of its cases.

    Raises:
        DataError: a broken index, or one that lacks cases.
    """
    for index in (site / "index.csv", site.parent / "index.csv"):
        if index.is_file():
            rows = _index_rows(index)
            own = [r for r in rows if index.parent == site or r.get("site", "") == site.name]
            if own:
                return _named(own, names, index)
    return {}


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
        name = stem_of(row["id"])
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
