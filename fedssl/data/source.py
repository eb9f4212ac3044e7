"""A site's cases as they are on disk: pairs of files, checked one against the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fedssl.data.cache import default_cache_dir
from fedssl.data.case_files import case_grid, files_behind, read_mask, read_picture, recipe
from fedssl.data.fingerprints import digest_files
from fedssl.data.fitting import base_channels, fit_mode, with_channels
from fedssl.data.formats import format_of
from fedssl.data.geometry import Geometry
from fedssl.data.layouts import LAYOUTS, CaseFile
from fedssl.data.readers import LabelPicture, Picture
from fedssl.data.stacks import as_slice, fitted_mask
from fedssl.errors import DataError, did_you_mean
from fedssl.federation import SiteSpec
from fedssl.types import Case, Role, Task

__all__ = ["CaseRef", "CaseSource", "FolderSource", "open_source"]


@dataclass(frozen=True, slots=True)
class CaseRef:
    """What is known of a case before it is read.

    Args:
        name: unique within the site.
        subject: whose image it is.
        has_label: whether there is a mask.
        split: `train`, `val` or `test` where the data set publishes a split, else empty.
    """

    name: str
    subject: str
    has_label: bool
    split: str = ""


class CaseSource(Protocol):
    """Where cases come from: files, or a generator of synthetic ones."""

    @property
    def cases(self) -> Sequence[CaseRef]:
        """All cases, sorted by name."""

    def read(self, index: int) -> Case:
        """Return one case with raw intensities."""

    def content_key(self) -> str:
        """Return a digest of everything that decides what `read` returns."""


def open_source(spec: SiteSpec, task: Task) -> CaseSource:
    """Return the source that a site's `layout` names.

    Raises:
        DataError: unknown layout, or the site's folder does not hold what the layout needs.
    """
    if spec.layout == "synthetic":
        from fedssl.data.synthetic import SyntheticSource

        source: CaseSource = SyntheticSource(spec, task)
        return source
    return FolderSource(spec, task)


class FolderSource:
    """Cases from files.

    A grey picture is repeated where the task has three channels; a colour picture serves a
    one-channel task only if its channels are equal. A mask of 0 and 255 means 0 and 1 when the
    task has two classes, unless the layout knows better. The site option
    `label-values = "255,128,0"` gives, class by class, the value that stands for it in the files.

    Args:
        spec: the site.
        task: classes, mode and channels that the cases have to fit.
    """

    def __init__(self, spec: SiteSpec, task: Task) -> None:
        if spec.layout not in LAYOUTS:
            known = [*LAYOUTS, "synthetic"]
            raise DataError(
                f"Site {spec.name!r}: unknown layout {spec.layout!r}."
                f"{did_you_mean(spec.layout, known)} Layouts: {', '.join(known)}."
            )
        self.spec, self.task = spec, task
        self.files: list[CaseFile] = LAYOUTS[spec.layout](spec)
        self.cases = tuple(
            CaseRef(f.name, f.subject, f.label is not None, f.split) for f in self.files
        )
        self._values = _label_values(spec, task)
        if spec.role != Role.UNLABELED and not any(c.has_label for c in self.cases):
            raise DataError(
                f"Site {spec.name!r} has the role {spec.role.value!r}, but none of the "
                f"{len(self.cases)} images in {spec.path} has a mask. Put masks into its labels "
                'folder under the images\' names, or set role = "unlabeled".'
            )

    def read(self, index: int) -> Case:
        """Read one case and check it against its mask and the task.

        Raises:
            DataError: unreadable, of another size, channel count or dimension than needed, or a
                mask value that stands for no class.
        """
        files = self.files[index]
        picture = read_picture(files)
        image = with_channels(
            fit_mode(picture.array, self.task, files.image), base_channels(self.task), files.image
        )
        label = None if files.label is None else self._mask(files, files.label, picture)
        spacing, unit = _spacing(self.spec, picture, files.image)
        dims = image.ndim - 1
        return Case(files.name, files.subject, image, label, spacing[-dims:], unit)

    def geometry(self, index: int) -> Geometry:
        """Return the grid of one image file, to write a prediction back onto it."""
        return case_grid(self.files[index])

    def content_key(self) -> str:
        """Return a digest of the files' contents and of the settings that `read` follows."""
        digest = hashlib.blake2b(digest_size=20)
        settings = [self.spec.spacing, dict(self.spec.options), self.task.mode, self.task.channels]
        digest.update(json.dumps([settings, len(self.task.classes)], sort_keys=True).encode())
        paths: list[Path] = []
        for case in self.files:
            own, mask = files_behind(case.image_files), files_behind(case.label_files)
            row = [case.name, case.subject, len(own), len(mask), recipe(case)]
            digest.update(json.dumps(row).encode())
            paths += own + mask
        for content in digest_files(paths, default_cache_dir() / "digests"):
            digest.update(content.encode())
        return digest.hexdigest()

    def _mask(self, files: CaseFile, path: Path, picture: Picture) -> np.ndarray:
        try:
            return self._label(files, path, picture)
        except DataError as error:
            if self.spec.role != Role.UNLABELED:
                raise
            raise DataError(
                f"{error} Masks of an unlabeled site only serve evaluation: moved elsewhere, it is "
                "not needed."
            ) from None

    def _label(self, files: CaseFile, path: Path, picture: Picture) -> np.ndarray:
        code = files.code if self._values is None else None
        if code is not None and not code.ranges and self.task.num_classes > 2:
            code = None  # set or not set cannot stand for three classes; the values may
        label = read_mask(files, code)
        if self._values is None and (files.layers or code is not None):
            self._check_classes(label, path)
        if files.scaled:
            label = fitted_mask(label, picture.geometry)
        label = as_slice(label, picture)
        if label.array.shape != picture.array.shape[1:]:
            raise DataError(
                f"The mask {path} has the shape {label.array.shape}, but its image {files.image} "
                f"has {picture.array.shape[1:]}. Resample the mask onto the image's grid."
            )
        _check_alignment(label, picture, path, files.image)
        classes = _to_classes(label.array, self._values, self.task, path)
        return classes[0] if self.task.mode == "2d" and classes.ndim == 3 else classes

    def _check_classes(self, label: LabelPicture, path: Path) -> None:
        """Refuse a class that the layout knows and the task does not."""
        highest = int(label.array.max())
        if highest >= self.task.num_classes:
            raise DataError(
                f"{path}: the layout {self.spec.layout!r} reads the classes 0..{highest} from its "
                f"masks, but the task has {list(self.task.classes)}. Add classes to [task], or see "
                "whether the layout has an option that leaves some out."
            )


def _spacing(spec: SiteSpec, picture: Picture, path: Path) -> tuple[tuple[float, ...], str]:
    """Return the spacing per spatial axis and its unit."""
    dims = len(picture.spacing)
    if isinstance(spec.spacing, str):
        if spec.spacing == "header" and picture.has_physical_spacing:
            return picture.spacing, "mm"
        return (1.0,) * dims, "pixel"
    given = spec.spacing
    if len(given) == 2 and dims == 3 and picture.geometry.size[2] == 1:
        given = (*given, 1.0)
    if len(given) != dims or any(not 0 < s < float("inf") for s in given):
        raise DataError(
            f"Site {spec.name!r}: spacing = {list(spec.spacing)} does not fit {path}, which has "
            f"{dims} axes; give {dims} positive lengths in mm, in the order x, y, z of the file."
        )
    # an array without a header has no axes of its own but those that its layout names x, y, z
    file_format = format_of(path)
    bare = file_format is not None and file_format.keys != "none"
    axes = range(dims) if bare else picture.geometry.axes
    return tuple(given[a] for a in reversed(axes)), "mm"


def _check_alignment(
    label: LabelPicture, picture: Picture, label_path: Path, image_path: Path
) -> None:
    """Refuse a mask that is stored in another orientation and does not lie on its image.

    Equal orientations are matched voxel by voxel, whatever the origins say: many tools lose them.
    """
    ours, theirs = label.geometry, picture.geometry
    if (ours.axes, ours.flips) == (theirs.axes, theirs.flips):
        return
    apart = np.abs(ours.canonical_origin - theirs.canonical_origin).max()
    if apart > max(theirs.spacing):
        raise DataError(
            f"The mask {label_path} is stored in another orientation than its image {image_path}, "
            f"and their first voxels lie {apart:.1f} mm apart. Copy the image's geometry into the "
            "mask, or resample the mask onto the image."
        )


def _label_values(spec: SiteSpec, task: Task) -> tuple[int, ...] | None:
    """Return the file value of each class that the site's options give, if they do."""
    text = spec.options.get("label-values")
    if text is None:
        return None
    try:
        values = tuple(int(v) for v in str(text).split(","))
    except ValueError:
        values = ()
    if len(values) != task.num_classes or len(set(values)) != len(values):
        raise DataError(
            f"Site {spec.name!r}: label-values = {text!r} does not fit. Give {task.num_classes} "
            f"different integers, one for each of {list(task.classes)}."
        )
    return values


def _to_classes(
    array: np.ndarray, values: tuple[int, ...] | None, task: Task, path: Path
) -> np.ndarray:
    """Return class indices [*S] uint8."""
    found = _distinct(array)
    if values is None:
        binary = task.num_classes == 2 and found[-1] == 255 and set(found.tolist()) <= {0, 255}
        values = (0, 255) if binary else tuple(range(task.num_classes))
    unknown = [int(v) for v in found if v not in values]
    if unknown:
        raise DataError(
            f"{path} holds the value {unknown[0]}, which stands for no class; expected "
            + ", ".join(f"{v} = {c}" for v, c in zip(values, task.classes, strict=True))
            + ". Correct the mask or the classes in [task], or give the site "
            'options = { label-values = "..." } with one file value per class.'
        )
    classes = np.zeros(array.shape, dtype=np.uint8)
    for index, value in enumerate(values):
        classes[array == value] = index
    return classes


def _distinct(array: np.ndarray) -> np.ndarray:
    """Return the sorted distinct values; counting is faster than sorting where they are small."""
    if array.min() >= 0 and array.max() < 1 << 16:
        return np.flatnonzero(np.bincount(array.ravel()))
    distinct: np.ndarray = np.unique(array)
    return distinct
