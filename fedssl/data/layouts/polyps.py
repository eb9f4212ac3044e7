"""What the layouts with a folder of images beside one of masks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem
from fedssl.data.layouts.tree import Name, find, masks_of, optional_files

__all__ = ["ENDINGS", "IMAGES", "MASKS", "side_by_side"]

IMAGES: Name = ("images", "image", "imgs", "img")
MASKS: Name = ("masks", "mask", "labels", "label", "segs", "gt", "groundtruth", "ground truth")
ENDINGS = ("_mask", "_lesion", "_contour", "_segmentation", "_seg", "_label", "_gt", "mask")
"""What a mask's name may have after its image's."""


def side_by_side(
    root: Path,
    routes: Iterable[tuple[Name, Name]],
    above: Iterable[tuple[Name, ...]] = ((),),
    subject: Callable[[str], str] = str,
) -> list[CaseFile]:
    """Return the cases of the first pair of folders that exists; none if no pair does.

    Args:
        root: where to look.
        routes: names of the folder of images and of that of masks.
        above: folders that may lie between `root` and them.
        subject: of an image's stem.
    """
    pairs = list(routes)
    for base in above:
        for image_name, mask_name in pairs:
            folder = find(root, *base, image_name)
            if folder is None:
                continue
            images = files_by_stem(folder)
            masks = masks_of(images, optional_files(find(root, *base, mask_name)), ENDINGS)
            return [
                CaseFile(stem, subject(stem), path, masks.get(stem), code=BINARY)
                for stem, path in images.items()
            ]
    return []
