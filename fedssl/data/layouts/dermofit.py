"""`dermofit`: `<class>/<lesion>/<id>.png` with `<id>mask.png`; ten folders of classes."""

from __future__ import annotations

from pathlib import Path

from fedssl.data.formats import stem_of
from fedssl.data.layouts.cases import BINARY, CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import masks_of, named, pictures_below, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "<class>/<lesion>/<id>.png and <id>mask.png"


@layout("dermofit")
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures; those of one lesion (one folder) are one subject's.

    Raises:
        DataError: no such pictures, or a mask without its picture.
    """
    root = site_folder(spec.path, spec.name)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for stem, path in named(root, pictures_below(root)).items():
        (masks if "mask" in stem_of(path.name).casefold() else images)[stem] = path
    if not images:
        raise wrong_tree(spec, root, "dermofit", _EXPECTED)
    paired = masks_of(images, masks, ("_mask", "mask"))
    return [
        CaseFile(
            stem,
            "_".join(path.parent.relative_to(root).parts) or stem,
            path,
            paired.get(stem),
            code=BINARY,
        )
        for stem, path in images.items()
    ]
