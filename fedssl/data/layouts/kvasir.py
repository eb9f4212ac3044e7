"""`kvasir`: `images/` and `masks/` with equal names, as Kvasir-SEG, ETIS, ISIC and PraNet's sets.

Masks are binary and may be JPEG. Unlike in `folders`, a mask's name may carry one of many endings
(`_mask`, `_lesion`, `_contour`, `_segmentation`, ...), and the folders' names vary.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.polyps import IMAGES, MASKS, side_by_side
from fedssl.data.layouts.tree import wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]


@layout("kvasir")
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures.

    Raises:
        DataError: no folder of images, or a mask without its picture.
    """
    root = site_folder(spec.path, spec.name)
    cases = side_by_side(root, [(IMAGES, MASKS)])
    if not cases:
        raise wrong_tree(spec, root, "kvasir", "images/*.jpg and masks/*.jpg")
    return cases
