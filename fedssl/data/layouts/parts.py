"""Trees of `train`, `val` and `test` folders, each with a folder of images and one of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, MaskCode, files_by_stem
from fedssl.data.layouts.tree import Name, find, in_parts, masks_of, optional_files

__all__ = ["IMAGES", "MASKS", "PART_NAMES", "cases_in_parts"]

IMAGES: Name = ("image", "images")
MASKS: Name = ("mask", "masks", "label", "labels")
PART_NAMES: Mapping[str, Name] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def cases_in_parts(
    folder: Path,
    *,
    code: MaskCode | None,
    subject: Callable[[str], str] = str,
    within: tuple[Name, ...] = (),
) -> list[CaseFile]:
    """Return the cases of `<part>/<within>/{image,mask}`; an image needs no mask.

    Args:
        folder: holds the parts.
        code: of the masks.
        subject: of an image's stem.
        within: folders between the part and its images.

    Returns:
        None if no part has a folder of images.
    """
    cases = []
    for part, names in PART_NAMES.items():
        image_folder = find(folder, names, *within, IMAGES)
        if image_folder is None:
            continue
        images = files_by_stem(image_folder)
        masks = masks_of(images, optional_files(find(folder, names, *within, MASKS)))
        cases += [
            CaseFile(stem, subject(stem), path, masks.get(stem), code=code, split=part)
            for stem, path in images.items()
        ]
    return in_parts(cases)
