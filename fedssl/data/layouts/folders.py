"""`folders`: `images/` and, where there are masks, `labels/`, paired by file name.

The folder names are those, unless the site's `options` name others (`images`, `labels`). A mask may
carry a suffix such as `_mask`; nnU-Net's `_0000` after every image name is dropped. The subject of
each case stands in `index.csv` (columns site, id, subject) in the site's folder or the one above;
without it every image counts as its own subject.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.dicom import holds_dicom
from fedssl.data.layouts.cases import CaseFile, files_by_stem, passed_over, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import masks_of, subfolders
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_MASK_SUFFIXES = ("_mask", "_label", "_seg", "_segmentation", "_gt", "_manual1")
_CHANNEL = "_0000"


@layout(
    "folders",
    options={"images": "folder of the images (images)", "labels": "folder of the masks (labels)"},
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a site's cases sorted by name.

    Raises:
        DataError: no images, masks without an image, ambiguous names, or a broken index.csv.
    """
    site = site_folder(spec.path, spec.name)
    image_folder = site / str(spec.options.get("images", "images"))
    label_folder = site / str(spec.options.get("labels", "labels"))
    if not image_folder.is_dir():
        raise DataError(
            f"Site {spec.name!r}: {site} has no folder {image_folder.name!r}. Put the images into "
            f"{image_folder} and the masks, if there are any, into {label_folder}."
        )
    images = files_by_stem(image_folder)
    for folder in {image_folder.resolve(), label_folder.resolve()} - {site.resolve()}:
        _check_subfolders(folder, label_folder)
    if not images:
        raise DataError(
            f"Site {spec.name!r}: {image_folder} holds no images. Put them there, or name their "
            'folder: options = { images = "..." }.'
        )
    labels = files_by_stem(label_folder) if label_folder.is_dir() else {}
    images = _without_channel_suffix(images, labels, image_folder)
    labels = masks_of(images, labels, _MASK_SUFFIXES)
    return [CaseFile(name, name, path, labels.get(name)) for name, path in images.items()]


def _check_subfolders(folder: Path, labels: Path) -> None:
    """Refuse files in a folder below; only that of a DICOM series is a case."""
    for inner in subfolders(folder) if folder.is_dir() else []:
        if inner.resolve() == labels.resolve() or holds_dicom(inner):
            continue
        lost = next(
            (p for p in sorted(inner.rglob("*")) if not (p.is_dir() or passed_over(p))), None
        )
        if lost is not None:
            raise DataError(
                f"{lost} lies in a folder of its own, and {inner} is no DICOM series (cut off "
                f"files?). Put images into {folder} itself, or list them for the layout csv."
            )


def _without_channel_suffix(
    images: dict[str, Path], labels: dict[str, Path], folder: Path
) -> dict[str, Path]:
    """Drop `_0000` if every image has it; `frame_0000`, `frame_0001`, ... are plain names."""
    if all(stem.endswith(_CHANNEL) and stem not in labels for stem in images):
        return {stem.removesuffix(_CHANNEL): path for stem, path in images.items()}
    for stem, path in images.items():
        base, mark, channel = stem.rpartition("_")
        if base in labels and mark and channel.isdigit() and len(channel) == 4:
            raise DataError(
                f"{folder} holds several channels of {base!r} as separate files "
                f"({path.name}, ...); merge them into one file with channels, or keep "
                f"{base}{_CHANNEL} only."
            )
    return images
