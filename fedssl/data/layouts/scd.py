"""`scd`: Waterloo's skin cancer pictures, `*_orig.jpg` with `*_contour.png`, anywhere below.

The two archives unpack to `Skin Image Data Set-1/skin_data/melanoma/{dermis,dermquest}/` and
`Skin Image Data Set-2/skin_data/notmelanoma/...`; `path` is the folder with both or one of them.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import BINARY, CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import masks_of, named, pictures_below, split_off, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_EXPECTED = "pictures *_orig.jpg with masks *_contour.png, in any folders below"


@layout("scd")
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures; a contour is a filled mask.

    Raises:
        DataError: no such pictures, or a contour without its picture.
    """
    root = site_folder(spec.path, spec.name)
    files = named(root, pictures_below(root))
    rest, images = split_off(files, ("_orig",))
    _, masks = split_off(rest, ("_contour",))
    if not images:
        raise wrong_tree(spec, root, "scd", _EXPECTED)
    paired = masks_of(images, masks)
    return [CaseFile(s, s, path, paired.get(s), code=BINARY) for s, path in images.items()]
