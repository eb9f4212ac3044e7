"""Finding one's way in a data set's folders: any case, one folder too many, junk passed over."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedssl.data.formats import format_of, stem_of
from fedssl.data.layouts.cases import CaseFile, files_by_stem, is_junk
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = [
    "Name",
    "find",
    "in_parts",
    "masks_of",
    "named",
    "need",
    "optional_files",
    "pictures_below",
    "split_off",
    "subfolders",
    "wrong_tree",
]

Name = str | tuple[str, ...]
"""A folder's name, or the names that it may have."""


def subfolders(folder: Path) -> list[Path]:
    """Return a folder's folders, sorted, without hidden ones and what archives leave behind."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}.") from None
    return [e for e in entries if e.is_dir() and not is_junk(e.name)]


def find(folder: Path, *names: Name) -> Path | None:
    """Follow folder names from a folder downwards, whatever their case.

    At each step one more folder of the same name is entered, as unpacking archives makes them. The
    first of a step's names that exists is taken.
    """
    at = _unnested(folder)
    for name in names:
        by_name = {e.name.casefold(): e for e in subfolders(at)}
        wanted = (name,) if isinstance(name, str) else name
        found = next((by_name[n.casefold()] for n in wanted if n.casefold() in by_name), None)
        if found is None:
            return None
        at = _unnested(found)
    return at


def _unnested(folder: Path) -> Path:
    inner = [e for e in subfolders(folder) if e.name.casefold() == folder.name.casefold()]
    return inner[0] if inner else folder


def need(spec: SiteSpec, root: Path, layout: str, expected: str, *routes: Sequence[Name]) -> Path:
    """Return the folder at the end of the first route that exists.

    Raises:
        DataError: none does; it says what was expected.
    """
    for route in routes:
        found = find(root, *route)
        if found is not None:
            return found
    raise wrong_tree(spec, root, layout, expected)


def wrong_tree(spec: SiteSpec, root: Path, layout: str, expected: str) -> DataError:
    """Return the error of a folder that does not hold what a layout needs.

    Args:
        spec: the site.
        root: the folder that was looked into.
        layout: the layout's name.
        expected: what should lie where, relative to the folder.
    """
    try:
        names = sorted(e.name for e in root.iterdir() if not is_junk(e.name))
    except OSError as error:
        return DataError(f"{root} cannot be listed: {error.strerror or error}.")
    held = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return DataError(
        f"Site {spec.name!r}: {root} is no {layout} tree; expected {expected}. It holds: "
        f"{held or 'nothing'}."
    )


def optional_files(folder: Path | None) -> dict[str, Path]:
    """Return the image files of a folder by stem; none if there is no folder."""
    return {} if folder is None else files_by_stem(folder)


def pictures_below(folder: Path) -> Iterator[Path]:
    """Yield all image files below a folder, sorted; links to folders are not followed.

    Raises:
        DataError: a link that leads nowhere.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        for name in sorted(names):
            path = Path(root) / name
            if is_junk(name) or format_of(path) is None:
                continue
            if not path.exists():
                raise DataError(f"{path} is a link that leads nowhere; remove or repair it.")
            yield path


def split_off(
    files: Mapping[str, Path], endings: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Part images and masks that lie in one folder.

    Args:
        files: by stem.
        endings: what a mask's stem has after its image's, in any case.

    Returns:
        Images by stem, and masks by the stem of their image.
    """
    masks: dict[str, Path] = {}
    images: dict[str, Path] = {}
    for stem, path in files.items():
        cut = next((len(e) for e in endings if stem.casefold().endswith(e.casefold())), 0)
        (masks if cut else images)[stem[: len(stem) - cut]] = path
    return images, masks


def masks_of(
    images: Mapping[str, Path], masks: Mapping[str, Path], endings: Sequence[str] = ()
) -> dict[str, Path]:
    """Return the mask of each image that has one, by the image's stem, whatever the case.

    Args:
        images: by stem.
        masks: by stem.
        endings: what a mask's stem may have after its image's.

    Raises:
        DataError: a mask belongs to no image, or two belong to one.
    """
    folded = {stem.casefold(): stem for stem in images}
    paired: dict[str, Path] = {}
    orphans: list[Path] = []
    for stem, path in masks.items():
        plain = stem.casefold()
        bases = [plain, *(plain.removesuffix(e) for e in endings if plain.endswith(e))]
        owner = next((folded[b] for b in bases if b in folded), None)
        if owner is None:
            orphans.append(path)
        elif paired.setdefault(owner, path) != path:
            raise DataError(
                f"{path.parent} holds two masks of {images[owner].name!r}: {paired[owner].name!r} "
                f"and {path.name!r}; keep one."
            )
    if orphans:
        shown = ", ".join(path.name for path in orphans[:3]) + (", ..." if len(orphans) > 3 else "")
        raise DataError(
            f"{orphans[0].parent} holds {len(orphans)} masks without an image of the same name: "
            f"{shown}. Rename or remove them."
        )
    return paired


def in_parts(cases: Iterable[CaseFile]) -> list[CaseFile]:
    """Return the cases of a published split under names that differ.

    Where names repeat in another part, each part was numbered by itself; then the part's name goes
    before case and subject.
    """
    listed = list(cases)
    if len({case.name for case in listed}) == len(listed):
        return listed
    return [
        replace(c, name=f"{c.split}_{c.name}", subject=f"{c.split}_{c.subject}") for c in listed
    ]


def named(root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by stem; where stems repeat, each is named by its folders below `root` as well.

    Args:
        root: folder above all of them.
        paths: files.
    """
    listed = list(paths)
    if len({stem_of(path.name).casefold() for path in listed}) == len(listed):
        return {stem_of(path.name): path for path in listed}
    return {
        "_".join([*path.relative_to(root).parts[:-1], stem_of(path.name)]): path for path in listed
    }
