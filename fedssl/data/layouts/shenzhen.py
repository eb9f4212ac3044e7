"""`shenzhen`: chest X-rays of Shenzhen; 566 of 662 have masks, which come as a set of their own.

`ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png`; masks `CHNCXR_0001_0_mask.png`, below `mask/` or
`shcxr-lung-mask/mask/mask/` beside `CXR_png` or beside `ChinaSet_AllFiles`.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import find, masks_of, need
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "CXR_png/CHNCXR_*.png, below ChinaSet_AllFiles or not"
_SETS = ("all", "with-mask", "without-mask")
_MASKS = ("mask", "masks", "ManualMask")
_COUNTS = {
    "all": {"images": 662, "masks": 566},
    "with-mask": {"images": 566},
    "without-mask": {"images": 96},
}


def _counts(spec: SiteSpec) -> dict[str, int]:
    return _COUNTS[choice(spec, "cases", _SETS, "all")]


@layout(
    "shenzhen",
    options={
        "cases": "all (default), with-mask or without-mask",
        "masks": "folder of the masks, if it is another than those looked for",
    },
    published=_counts,
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures and the masks that there are.

    Raises:
        DataError: no such tree, no folder of masks where it was said to be, or a stray mask.
    """
    root = site_folder(spec.path, spec.name)
    folder = need(spec, root, "shenzhen", _EXPECTED, ("CXR_png",), ("ChinaSet_AllFiles", "CXR_png"))
    images = files_by_stem(folder)
    mask_folder = _mask_folder(spec, root, folder.parent)
    listed = {} if mask_folder is None else files_by_stem(mask_folder)
    masks = masks_of(images, listed, ("_mask",))
    wanted = choice(spec, "cases", _SETS, "all")
    return [
        CaseFile(stem, stem, path, masks.get(stem), code=BINARY)
        for stem, path in images.items()
        if wanted == "all" or (stem in masks) == (wanted == "with-mask")
    ]


def _mask_folder(spec: SiteSpec, root: Path, beside: Path) -> Path | None:
    given = spec.options.get("masks")
    if given is not None:
        folder = root / str(given)
        if not folder.is_dir():
            raise DataError(f"Site {spec.name!r}: its folder of masks {folder} does not exist.")
        return folder
    for base in dict.fromkeys((beside, root, beside.parent)):
        for route in (("shcxr-lung-mask", _MASKS), (_MASKS,)):
            found = find(base, *route)
            if found is not None:
                return found
    return None
