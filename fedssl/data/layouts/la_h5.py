"""`la-h5`: left atrium in MRI (2018 challenge) as the semi-supervised benchmarks keep it.

```
<path>/2018LA_Seg_Training Set/<20-character id>/mri_norm2.h5   # image, label; axes x, y, z
<path>/train.list, <path>/test.list                             # ids; optional, used as the split
```
The volumes were cropped around the ground truth, also those that are tested or taken as unlabeled:
results tell nothing about whole scans.

Source: Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
segmentation", MICCAI 2019 (the preprocessing); Xiong et al., Medical Image Analysis 2021 (data).
"""

from __future__ import annotations

import logging

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import AXES, axes_of, h5_case, in_listed_parts, listed_name
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, subfolders, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

log = logging.getLogger("fedssl")

_FILE = "mri_norm2.h5"
_ABOVE = ("2018LA_Seg_Training Set", "2018LA_Seg_Training", "LA_data")
_LISTS = {
    "train": ("train.list", "train.txt"),
    "val": ("val.list", "val.txt"),
    "test": ("test.list", "test.txt"),
}


@layout("la-h5", options=AXES, published={"images": 100, "train": 80, "test": 20})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the scans with the published split; whether two are one person's is not published.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, _ABOVE) or root
    axes = axes_of(spec, "xyz")
    cases = [
        h5_case(scan / _FILE, scan.name, scan.name, axes)
        for scan in subfolders(folder)
        if (scan / _FILE).is_file()
    ]
    if not cases:
        raise wrong_tree(spec, root, "la-h5", f"2018LA_Seg_Training Set/<id>/{_FILE}")
    log.warning(
        f"Site {spec.name!r}: these volumes are cropped around the true atrium, test cases too; "
        "scores on them do not hold for whole scans."
    )
    return in_listed_parts(spec, cases, (root, root.parent), _LISTS, _id)


def _id(line: str) -> str:
    return listed_name(line.strip().removesuffix(f"/{_FILE}"))
