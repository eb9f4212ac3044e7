"""`lgg-kaggle`: FLAIR abnormality of lower-grade glioma, 110 patients of five hospitals.

```
<path>/kaggle_3m/TCGA_<hospital>_<patient>_<date>/TCGA_..._<n>.tif, TCGA_..._<n>_mask.tif
```
Images have three channels (before contrast, FLAIR, after contrast), masks 0 and 255. Set
`options = { hospital = "CS" }` to take a hospital (CS, DU, EZ, FG, HT) as a site. A slice is a case
of mode 2d, or with `volumes = true` a patient is a volume for the other modes. The slice thickness
is not in the files.

Source: Buda et al., Computers in Biology and Medicine 109 (2019), 218-225.
"""

from __future__ import annotations

import re

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import choice, flag, layout
from fedssl.data.layouts.tree import find, masks_of, split_off, subfolders, wrong_tree
from fedssl.data.layouts.volumes import VOLUMES, as_volumes
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_HOSPITALS = ("CS", "DU", "EZ", "FG", "HT")
_FOLDER = re.compile(r"(?i)TCGA_([A-Z]{2})_[A-Z0-9]+_\d{8}")
_EXPECTED = "kaggle_3m/TCGA_<hospital>_<patient>_<date>/*.tif"


def _counts(spec: SiteSpec) -> dict[str, int]:
    return {} if "hospital" in spec.options else {"subjects": 110}


@layout(
    "lgg-kaggle",
    options={"hospital": f"one of {', '.join(_HOSPITALS)}; without it all", **VOLUMES},
    published=_counts,
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a hospital's slices or volumes; a folder is a person.

    Raises:
        DataError: no such tree, or a mask without its image.
    """
    root = site_folder(spec.path, spec.name)
    routes = (("lgg-mri-segmentation", "kaggle_3m"), ("kaggle_3m",))
    folder = next((f for route in routes if (f := find(root, *route))), root)
    wanted = choice(spec, "hospital", _HOSPITALS, "") if "hospital" in spec.options else ""
    slices = []
    for patient in subfolders(folder):
        match = _FOLDER.fullmatch(patient.name)
        if match is None or wanted not in ("", match[1].upper()):
            continue
        images, masks = split_off(files_by_stem(patient), ("_mask",))
        paired = masks_of(images, masks)
        slices += [
            CaseFile(stem, patient.name, path, paired.get(stem), code=BINARY)
            for stem, path in images.items()
        ]
    if not slices:
        raise wrong_tree(spec, root, "lgg-kaggle", _EXPECTED)
    return as_volumes(slices) if flag(spec, "volumes") else slices
