"""Pseudo-labels as files for ITK-SNAP, 3D Slicer or MONAI Label, and the corrected ones back."""

from __future__ import annotations

import csv
import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedssl.data.check_findings import Level
from fedssl.data.check_masks import check_headers
from fedssl.data.cropping import Box
from fedssl.data.formats import stem_of
from fedssl.data.layouts.cases import files_by_stem
from fedssl.data.masks import mask_name, write_onto
from fedssl.data.source import FolderSource
from fedssl.deploy.site_edit import edit_as_mixed
from fedssl.errors import ConfigError, DataError
from fedssl.federation import SiteSpec, load_site_file
from fedssl.memory import write_atomically
from fedssl.pseudo import PseudoCase, PseudoSite
from fedssl.types import Role, Task

__all__ = ["Exported", "Imported", "export_pseudo_labels", "import_corrections"]

log = logging.getLogger("fedssl")

INDEX: Final = "index.csv"
COLUMNS: Final = ("rank", "case", "label", "trust", "predicted_dice", "trusted", "sha256")


@dataclass(frozen=True, slots=True)
class Exported:
    """One line of the list: rank 1 has the lowest predicted quality.

    Args:
        rank: counts from 1.
        case: name of the case.
        label: mask of class indices.
        trust: 1 where every class is trusted.
        predicted_dice: in [0, 1].
        trusted: share of trusted pixels.
    """

    rank: int
    case: str
    label: Path
    trust: Path
    predicted_dice: float
    trusted: float


@dataclass(frozen=True, slots=True)
class Imported:
    """What came back.

    Args:
        cases: whose masks are used from now on, those of earlier imports included.
        new: those among them that came now.
        unchanged: exported masks that came back as they were, and are not used.
        folder: where the masks lie.
        site_file: the site file that uses them; another than the old one, if that one cannot be
            written.
    """

    cases: list[str]
    new: list[str]
    unchanged: list[str]
    folder: Path
    site_file: Path


def export_pseudo_labels(site: PseudoSite, source: FolderSource, out: Path) -> list[Exported]:
    """Write `labels/`, `trust/` and `index.csv`, the worst case first.

    Files carry the image's name, lie on its grid and have its format (PNG for JPEG pictures).

    Args:
        site: labeled cases.
        source: the site's files.
        out: new folder.

    Raises:
        DataError: the folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; pseudo-labels are written into a new folder.")
    for name in ("labels", "trust"):
        (out / name).mkdir(parents=True)
    boxes = [case.box for case in site.prepared.cases]
    unsorted = [_write(site.case(index), source, boxes[index], out) for index in site.cases]
    ranked = sorted(unsorted, key=lambda e: (e.predicted_dice, e.case))
    exported = [
        Exported(rank, e.case, e.label, e.trust, e.predicted_dice, e.trusted)
        for rank, e in enumerate(ranked, 1)
    ]
    _write_index(exported, out)
    return exported


def _write(case: PseudoCase, source: FolderSource, box: Box, out: Path) -> Exported:
    image, geometry = source.files[case.index].image, source.geometry(case.index)
    label, trust = (out / folder / mask_name(image, case.name) for folder in ("labels", "trust"))
    write_onto(label, case.label, geometry, box)
    write_onto(trust, case.trust, geometry, box)
    return Exported(0, case.name, label, trust, case.predicted_dice, case.trusted)


def _write_index(exported: list[Exported], out: Path) -> None:
    with (out / INDEX).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for e in exported:
            paths = (e.label.relative_to(out).as_posix(), e.trust.relative_to(out).as_posix())
            scores = (f"{e.predicted_dice:.4f}", f"{e.trusted:.4f}")
            writer.writerow([e.rank, e.case, *paths, *scores, _digest(e.label)])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def import_corrections(
    site_file: Path,
    corrected: Path,
    state: Path,
    *,
    unchanged_too: bool = False,
    out: Path | None = None,
) -> Imported:
    """Take corrected masks over, and make the site a mixed one.

    The masks are copied below the site's state directory, so the folder of images may be
    read-only; the site file is changed to use them, see `edit_as_mixed`.

    Args:
        site_file: its `[[site]]` gets role, labels and the list of cases that have masks.
        corrected: folder of masks, named like their images; also the folder of an export.
        state: the site's state directory.
        unchanged_too: use masks as well that are, byte for byte, what was exported.
        out: where the changed site file goes; None: into `site_file`.

    Raises:
        DataError: a mask belongs to no image, has another size or spacing, or holds a value of no
            class.
        ConfigError: the site's layout keeps its masks elsewhere.
    """
    task, spec = load_site_file(site_file)
    corrected = corrected.resolve()  # a source's paths are absolute, and masks are found by path
    folder = corrected / "labels" if (corrected / "labels").is_dir() else corrected
    masks, unchanged = _split_unchanged(folder, unchanged_too)
    if not masks:
        raise DataError(
            f"{folder} holds no mask that was changed ({len(unchanged)} are as they were "
            "exported). Correct some, or take them as they are with --unchanged-too."
        )
    own = state / "corrected"
    present = _masks_in_use(spec, task, own)
    new = _checked(spec, task, folder, masks)
    own.mkdir(parents=True, exist_ok=True)
    for name, path in {**present, **new}.items():
        _copy(name, path, own)
    cases = sorted({*present, *new})
    listing = state / "corrected.txt"
    write_atomically(listing, "".join(f"{name}\n" for name in cases).encode())
    changed = edit_as_mixed(
        site_file,
        labels=own.resolve(),
        listing=listing.resolve(),
        spare=state / site_file.name,
        out=out,
    )
    return Imported(cases, sorted(new), unchanged, own, changed)


def _split_unchanged(folder: Path, unchanged_too: bool) -> tuple[dict[str, Path], list[str]]:
    """Return the masks by stem, and the stems of those that are as they were exported."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of masks.")
    masks = files_by_stem(folder)
    exported = _exported_digests(folder)
    same = sorted(n for n, p in masks.items() if exported.get(p.name) == _digest(p))
    kept = {n: p for n, p in masks.items() if unchanged_too or n not in same}
    return kept, [] if unchanged_too else same


def _exported_digests(folder: Path) -> dict[str, str]:
    for path in (folder / INDEX, folder.parent / INDEX):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("sha256")]
            return {Path(row["label"]).name: row["sha256"] for row in rows}
    return {}


def _source_with(spec: SiteSpec, task: Task, labels: Path) -> FolderSource:
    options = {**spec.options, "labels": str(labels.resolve())}
    return FolderSource(spec.model_copy(update={"options": options}), task)


def _checked(
    spec: SiteSpec, task: Task, folder: Path, masks: Mapping[str, Path]
) -> dict[str, Path]:
    """Return the masks by case, after reading each together with its image."""
    if spec.layout != "folders":
        raise ConfigError(
            f'The layout {spec.layout!r} keeps its masks elsewhere; corrections need "folders".'
        )
    source = _source_with(spec, task, folder)
    wanted = set(masks.values())
    checked = {}
    for index, file in enumerate(source.files):
        if file.label in wanted:
            source.read(index)
            _require_grid(file.image, file.label)
            checked[file.name] = file.label
    return checked


def _require_grid(image: Path, mask: Path) -> None:
    """Refuse a mask of another spacing than its image; warn of one that is only placed elsewhere.

    Many tools lose a file's origin, so that is no reason to refuse a correction.
    """
    for finding in check_headers(image, mask):
        if finding.level == Level.ERROR:
            raise DataError(f"{finding.file}: {finding.detail} {finding.remedy}")
        log.warning("%s: %s", finding.file, finding.detail)


def _masks_in_use(spec: SiteSpec, task: Task, own: Path) -> dict[str, Path]:
    """Return the masks that the site uses already, by case."""
    if spec.role == Role.UNLABELED:
        return {}
    if isinstance(spec.labeled, int):
        raise ConfigError(
            f"Site {spec.name!r} has labeled = {spec.labeled}, a number; name the cases with masks "
            "in a text file, one per line, and set labeled to it. Then import again."
        )
    source = FolderSource(spec, task)
    listed = None
    if spec.labeled is not None:
        text = (Path(spec.path) / spec.labeled).read_text(encoding="utf-8-sig")
        listed = {line.strip() for line in text.splitlines() if line.strip()}
    return {
        f.name: f.label
        for f in source.files
        if f.label is not None and (listed is None or {f.name, f.subject} & listed)
    }


def _copy(name: str, path: Path, folder: Path) -> None:
    """Copy a mask under its case's name; one in another format replaces an older one."""
    suffix = path.name[len(stem_of(path.name)) :]
    target = folder / f"{name}{suffix}"
    if path.resolve() == target.resolve():
        return
    for other in files_by_stem(folder).items():
        if other[0] == name:
            other[1].unlink()
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(path, temporary)
    temporary.replace(target)
