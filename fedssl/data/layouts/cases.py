"""What every layout yields, and what the layouts share."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedssl.data.dicom import holds_dicom
from fedssl.data.formats import format_of, stem_of, supported_suffixes
from fedssl.errors import DataError

__all__ = [
    "BINARY",
    "PARTS",
    "CaseFile",
    "MaskCode",
    "MaskLayer",
    "files_by_stem",
    "is_junk",
    "passed_over",
    "site_folder",
    "take_shard",
]

PARTS = ("train", "val", "test")
"""What a published split calls its parts here."""

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
_PIXELS = (".raw", ".zraw", ".raw.gz")
_NOTES = (
    *(".txt", ".md", ".csv", ".json", ".xml", ".html", ".list", ".pdf", ".toml", ".yaml", ".yml"),
    *(".doc", ".docx", ".xls", ".xlsx", ".log", ".py", ".m", ".sh"),
)


@dataclass(frozen=True, slots=True)
class MaskCode:
    """Which values of a mask file stand for which class; without one they are class indices.

    Args:
        ranges: (lowest value, highest value, class); a value in none of them is an error. Empty: a
            binary mask of 0 and 1, or of 0 and 255, also after a lossy compression.
        inverted: `no`; `yes`: the value is 255 minus the file's (of a binary mask: set means
            background); `corners`: `yes` if no corner of the picture would be background otherwise.
    """

    ranges: tuple[tuple[int, int, int], ...] = ()
    inverted: str = "no"


BINARY = MaskCode()
"""0 and 1, 0 and 255, or such values after a lossy compression."""


@dataclass(frozen=True, slots=True)
class MaskLayer:
    """A binary mask file, painted over the layers before it.

    Args:
        path: mask file, binary as in `BINARY`.
        index: the class that it paints.
        key: see `CaseFile.label_key`.
    """

    path: Path
    index: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class CaseFile:
    """One case on disk.

    Args:
        name: unique within the site.
        subject: whose image it is.
        image: image file.
        label: mask file, or None.
        image_key: which array of a container file (HDF5, npy, mat, ...) is the image; what such a
            key looks like is the format's matter.
        label_key: the same for the mask, which may lie in the same file.
        more_images: files of further channels, on the grid of `image`.
        code: how values of the mask file become class indices; None: they are indices (or 0 and
            255). The site option `label-values` overrides it.
        layers: masks painted one over the other; then `label` is the first one's file.
        split: `train`, `val` or `test` where the data set publishes a split, else empty.
        scaled: the mask shows the image's field of view at another resolution.
        slices: pictures that make this volume, in order, one slice each; `image` and `label` are
            then the first one's.
    """

    name: str
    subject: str
    image: Path
    label: Path | None = None
    image_key: str = ""
    label_key: str = ""
    more_images: tuple[Path, ...] = ()
    code: MaskCode | None = None
    layers: tuple[MaskLayer, ...] = ()
    split: str = ""
    scaled: bool = False
    slices: tuple[CaseFile, ...] = ()

    def __post_init__(self) -> None:
        if self.layers and self.label is None:
            object.__setattr__(self, "label", self.layers[0].path)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The files that the image is read from."""
        if self.slices:
            return tuple(path for part in self.slices for path in part.image_files)
        return (self.image, *self.more_images)

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The files that the mask is read from, each once."""
        if self.slices and self.label is not None:
            return tuple(path for part in self.slices for path in part.label_files)
        if self.layers:
            return tuple(dict.fromkeys(layer.path for layer in self.layers))
        return () if self.label is None else (self.label,)


def site_folder(path: str, site: str) -> Path:
    """Return a site's folder, which has to exist."""
    if not path:
        raise DataError(f'Site {site!r} has no path; set path = "<its folder>" in its table.')
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"Site {site!r}: the folder {folder} does not exist. A relative path starts at "
            "data-root, else at FEDSSL_DATA, else at the federation file's folder."
        )
    return folder


def files_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files of a folder by stem, sorted.

    A folder with DICOM files counts as one image. Hidden files, other folders and harmless
    companions (`Thumbs.db`, `.raw` beside `.mhd`, notes) are passed over.

    Raises:
        DataError: an unknown file type, a dead link, or two files of one stem.
    """
    found: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for path in sorted(_entries(folder)):
        if not path.exists():
            raise DataError(f"{path} is a link that leads nowhere; remove or repair it.")
        if format_of(path) is None:
            raise DataError(
                f"{path} is of no supported type; convert it or move it out of {folder}. "
                f"Supported: {supported_suffixes()}."
            )
        # Names that look the same are the same, however a system writes its accents.
        stem = unicodedata.normalize("NFC", stem_of(path.name))
        other = folded.setdefault(stem.casefold(), path)
        if other != path:
            raise DataError(
                f"{folder} holds {other.name!r} and {path.name!r}, which name the same case; keep "
                "one of them or rename the other."
            )
        found[stem] = path
    return dict(sorted(found.items()))


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden, or what systems and archives leave behind."""
    return name.startswith(".") or name.lower() in _IGNORED


def passed_over(path: Path) -> bool:
    """Return whether a file is junk, a note, or the pixels that a header beside it points at."""
    return is_junk(path.name) or path.name.lower().endswith(_PIXELS + _NOTES)


def _entries(folder: Path) -> Iterable[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- pathlib hides the error's reason
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}.") from None
    for name in names:
        path = folder / name
        skipped = not holds_dicom(path) if path.is_dir() else passed_over(path)
        if not skipped and not is_junk(name):
            yield path


def take_shard(cases: list[CaseFile], shard: tuple[int, int] | None, site: str) -> list[CaseFile]:
    """Return the cases of every n-th subject, beginning with the i-th (sorted by name)."""
    if shard is None:
        return cases
    subjects = sorted({case.subject for case in cases})
    kept = set(subjects[shard[0] :: shard[1]])
    if not kept:
        raise DataError(
            f"Site {site!r}: shard {list(shard)} is empty, the folder has only {len(subjects)} "
            "subjects. Use fewer shards."
        )
    return [case for case in cases if case.subject in kept]
