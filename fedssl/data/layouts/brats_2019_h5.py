"""`brats-2019-h5`: whole tumors in FLAIR (BraTS 2019) as the semi-supervised benchmarks keep it.

```
<path>/data/BraTS19_<origin>_<patient>_1.h5        # image, label (any tumor = 1)
<path>/train.txt, <path>/val.txt, <path>/test.txt  # case names; optional, used as the split
```

Source: Luo, "SSL4MIS" (the preprocessing); Menze et al., IEEE TMI 2015 (data).
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import AXES, axes_of, h5_case, h5_files, in_listed_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_LISTS = {
    "train": ("train.txt", "train.list"),
    "val": ("val.txt", "val.list"),
    "test": ("test.txt", "test.list"),
}


@layout(
    "brats-2019-h5",
    options=AXES,
    published={"images": 335, "train": 250, "val": 25, "test": 60},
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the cases with the published split; the last number of a name is that of the scan.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "data") or root
    axes = axes_of(spec, "zyx")
    cases = [h5_case(p, n, _patient(n), axes) for n, p in h5_files(folder).items()]
    if not cases:
        raise wrong_tree(spec, root, "brats-2019-h5", "data/<case>.h5")
    return in_listed_parts(spec, cases, (root, folder, root.parent), _LISTS)


def _patient(name: str) -> str:
    patient, mark, scan = name.rpartition("_")
    return patient if mark and scan.isdigit() and patient.count("_") >= 2 else name
