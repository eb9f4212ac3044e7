"""`pancreas-h5`: NIH Pancreas-CT as the semi-supervised benchmarks keep it.

```
<path>/Pancreas_h5/imageNNNN_norm.h5    # image in 0..1 (-125..275 HU), label; 1 mm voxels
<path>/train.list, <path>/test.list     # imageNNNN; optional, used as the split (62 and 20)
```
Numbers 25 and 70 are two copies of one scan; they count as one subject. Raw scans (a folder of
DICOM slices each, masks as NIfTI) read with the layout `folders`.

Source: Roth et al., MICCAI 2015 (data).
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import (
    AXES,
    axes_of,
    h5_case,
    h5_files,
    in_listed_parts,
    listed_name,
)
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_LISTS = {"train": ("train.list", "train.txt"), "test": ("test.list", "test.txt")}
_TWINS = {"image0070": "image0025"}


@layout("pancreas-h5", options=AXES, published={"train": 62, "test": 20})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the scans with the published split.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "Pancreas_h5") or root
    axes = axes_of(spec, "xyz")
    cases = []
    for stem, path in h5_files(folder).items():
        name = _plain(stem)
        cases.append(h5_case(path, name, _TWINS.get(name, name), axes))
    if not cases:
        raise wrong_tree(spec, root, "pancreas-h5", "Pancreas_h5/imageNNNN_norm.h5")
    places = (root, root.parent)
    return in_listed_parts(spec, cases, places, _LISTS, lambda line: _plain(listed_name(line)))


def _plain(stem: str) -> str:
    return stem.removesuffix("_norm")
