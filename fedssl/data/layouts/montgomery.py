"""`montgomery`: chest X-rays of Montgomery County, with one mask per lung.

`MontgomerySet/CXR_png/MCUCXR_0001_0.png`, `ManualMask/{leftMask,rightMask}/MCUCXR_0001_0.png`. Both
lungs become one class: which of them `leftMask` shows, the copies do not agree on.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, MaskLayer, files_by_stem, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, masks_of, need, optional_files
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "CXR_png/*.png and ManualMask/{leftMask,rightMask}/*.png, below MontgomerySet or not"


@layout("montgomery", published={"images": 138, "masks": 138})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures, each with its two masks as layers.

    Raises:
        DataError: no such tree, or one of two masks is missing.
    """
    root = site_folder(spec.path, spec.name)
    folder = need(spec, root, "montgomery", _EXPECTED, ("CXR_png",), ("MontgomerySet", "CXR_png"))
    images = files_by_stem(folder)
    sides = []
    for side in ("leftMask", "rightMask"):
        found = find(folder.parent, "ManualMask", side)
        sides.append(masks_of(images, optional_files(found)))
    cases = []
    for stem, path in images.items():
        masks = [side[stem] for side in sides if stem in side]
        if len(masks) == 1:
            raise DataError(
                f"{masks[0]} is the mask of one lung only; the other of leftMask and rightMask is "
                "missing. Copy it as well, or remove this one."
            )
        layers = tuple(MaskLayer(mask, 1) for mask in masks)
        cases.append(CaseFile(stem, stem, path, layers=layers))
    return cases
