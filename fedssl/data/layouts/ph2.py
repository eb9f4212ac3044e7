"""`ph2`: dermoscopy, a folder per lesion: `IMD002/IMD002_Dermoscopic_Image/IMD002.bmp`.

The mask is `IMD002/IMD002_lesion/IMD002_lesion.bmp`; other regions are passed over. A resized copy
has `imgs/IMD002.bmp` and `segs/IMD002_lesion.bmp` instead.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, masks_of, optional_files, subfolders, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_FOLDERS = ("PH2 Dataset images", "PH2_Dataset_images")
_EXPECTED = "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp, or imgs/IMD002.bmp"


@layout("ph2", published={"images": 200, "masks": 200})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the lesions.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    images, masks = _resized(root)
    if not images:
        routes = ((_FOLDERS,), (("PH2Dataset", "PH2"), _FOLDERS))
        tops = (find(root, *route) for route in routes)
        images, masks = _by_lesion(next((top for top in tops if top is not None), root))
    if not images:
        raise wrong_tree(spec, root, "ph2", _EXPECTED)
    paired = masks_of(images, masks, ("_lesion",))
    return [CaseFile(s, s, path, paired.get(s), code=BINARY) for s, path in images.items()]


def _resized(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    return optional_files(find(root, "imgs")), optional_files(find(root, "segs"))


def _by_lesion(top: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for folder in subfolders(top):
        image_folder = find(folder, f"{folder.name}_Dermoscopic_Image")
        mask_folder = find(folder, f"{folder.name}_lesion")
        images |= {} if image_folder is None else files_by_stem(image_folder)
        masks |= {} if mask_folder is None else files_by_stem(mask_folder)
    return images, masks
