"""`acdc-h5`: cardiac MRI (ACDC) as the semi-supervised benchmarks keep it, one volume per frame.

```
<path>/data/patientPPP_frameFF.h5                      # image, label (0..3); [D, H, W]
<path>/train.list, <path>/val.list, <path>/test.list   # patientPPP_frameFF; optional, the split
```
Classes: background, right ventricle, myocardium, left ventricle. Both frames of a patient are one
subject. The slices as files of their own read with the layout `acdc-h5-slices`.

Source: Luo, "SSL4MIS" (the preprocessing); Bernard et al., IEEE TMI 2018 (data).
"""

from __future__ import annotations

from fedssl.data.layouts.acdc import ACDC_LISTS, frame_of, patient_of
from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import AXES, axes_of, h5_case, h5_files, in_listed_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]


@layout("acdc-h5", options=AXES, published={"images": 200, "train": 140, "val": 20, "test": 40})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the frames with the published split.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "data") or root
    axes = axes_of(spec, "zyx")
    files = {n: p for n, p in h5_files(folder).items() if frame_of(n) == n}
    cases = [h5_case(path, name, patient_of(name), axes) for name, path in files.items()]
    if not cases:
        raise wrong_tree(spec, root, "acdc-h5", "data/patientPPP_frameFF.h5")
    return in_listed_parts(spec, cases, (root, folder, root.parent), ACDC_LISTS)
