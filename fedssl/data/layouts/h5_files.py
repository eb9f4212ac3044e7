"""What the HDF5 layouts share: `image` and `label` in one file, and published lists of cases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedssl.data.hdf5 import dataset_names
from fedssl.data.layouts.cases import CaseFile, files_by_stem
from fedssl.data.layouts.layout import choice
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["AXES", "axes_of", "h5_case", "h5_files", "in_listed_parts", "listed_name"]

log = logging.getLogger("fedssl")

_ORDERS = ("zyx", "zxy", "yzx", "yxz", "xzy", "xyz")
AXES = {"axes": f"order of the stored axes, the slowest first: one of {', '.join(_ORDERS)}"}


def axes_of(spec: SiteSpec, default: str) -> str:
    """Return the order of axes that a site's option gives."""
    return choice(spec, "axes", _ORDERS, default)


def h5_case(
    path: Path,
    name: str,
    subject: str,
    axes: str = "zyx",
    keys: tuple[str, str] = ("image", "label"),
) -> CaseFile:
    """Return the case in one file; it has a mask if the file has that dataset.

    What is wrong with a file is told by who reads it, so that one does not hide the others.

    Args:
        path: the file.
        name: of the case.
        subject: whose image it is.
        axes: order of the stored axes.
        keys: names of the datasets of image and mask.
    """
    image, label = keys
    try:
        held = dataset_names(path)
    except DataError:
        held = {label}
    mask = path if label.partition("/")[0] in held else None
    return CaseFile(name, subject, path, mask, f"{image}@{axes}", f"{label}@{axes}")


def h5_files(folder: Path) -> dict[str, Path]:
    """Return the HDF5 files of a folder by stem."""
    files = files_by_stem(folder)
    return {n: p for n, p in files.items() if p.suffix.lower() in (".h5", ".hdf5")}


def listed_name(line: str) -> str:
    """Return the case that a line of a list names: with or without folders, suffix and notes."""
    name = line.split(",", maxsplit=1)[0].strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name.removesuffix(".h5")


def in_listed_parts(
    spec: SiteSpec,
    cases: Sequence[CaseFile],
    folders: Iterable[Path],
    files: Mapping[str, tuple[str, ...]],
    name_of: Callable[[str], str] = listed_name,
) -> list[CaseFile]:
    """Give each case the part in whose list it stands; without lists nothing changes.

    A case in none of the lists is left out, as the data set's authors did; what is left out or
    missing is logged.

    Args:
        spec: the site.
        cases: what is on disk.
        folders: where the lists may lie; the first that holds one is taken.
        files: part -> names that its list may have.
        name_of: line -> name of a case.

    Raises:
        DataError: a list is unreadable, names no case at all, or a case stands in two parts.
    """
    lists = _lists(folders, files)
    if not lists:
        return list(cases)
    parts = _parts(lists, name_of)
    by_name = {case.name: case for case in cases}
    kept = [replace(by_name[n], split=part) for n, part in parts.items() if n in by_name]
    first = next(iter(lists.values()))
    if not kept:
        raise DataError(
            f"Site {spec.name!r}: none of the {len(parts)} cases that {first} and its like name "
            f"(e.g. {next(iter(parts), 'nobody')!r}) is among the {len(cases)} on disk."
        )
    lost = [n for n in parts if n not in by_name]
    if lost:
        log.warning(
            f"Site {spec.name!r}: {len(lost)} listed cases are missing on disk, e.g. {lost[0]!r}."
        )
    if len(kept) < len(cases):
        more = len(cases) - len(kept)
        log.warning(f"Site {spec.name!r}: {more} cases stand in none of the lists; left out.")
    return kept


def _lists(folders: Iterable[Path], files: Mapping[str, tuple[str, ...]]) -> dict[str, Path]:
    for folder in folders:
        found = {
            part: folder / name
            for part, names in files.items()
            for name in reversed(names)
            if (folder / name).is_file()
        }
        if found:
            return found
    return {}


def _parts(lists: Mapping[str, Path], name_of: Callable[[str], str]) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part, path in lists.items():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as a list of cases: {error}.") from None
        for line in lines:
            if not line.strip():
                continue
            name = name_of(line)
            if parts.setdefault(name, part) != part:
                raise DataError(
                    f"{path} names {name!r}, which {lists[parts[name]]} names as well; a case is "
                    "trained or tested on, never both. Remove it from one of them."
                )
    return parts
