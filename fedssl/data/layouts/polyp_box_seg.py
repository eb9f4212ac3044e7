"""`polyp-box-seg`: 4070 polyp pictures without masks, below `all_polyp_images_combined/`."""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, named, pictures_below, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_FOLDER = "all_polyp_images_combined"


@layout("polyp-box-seg", published={"images": 4070})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the pictures, in whatever folders they lie; none has a mask.

    Raises:
        DataError: no pictures.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, _FOLDER) or root
    images = named(folder, pictures_below(folder))
    if not images:
        raise wrong_tree(spec, root, "polyp-box-seg", f"{_FOLDER}/**/*.jpg")
    return [CaseFile(stem, stem, path) for stem, path in images.items()]
