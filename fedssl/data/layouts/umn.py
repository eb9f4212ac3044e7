"""`umn`: fluid in retinal OCT of the University of Minnesota, all subjects in one MATLAB file.

```
<path>/AMD/UMN_Dataset.mat    # 24 subjects with age-related macular degeneration
<path>/DME/UMNDataset.mat     # 29 subjects with diabetic macular edema, and an image without mask
```
Variables `AllSubjects`, `ManualFluid1`, `ManualFluid2` (two graders), cells of [496, 1024, 25].
Path is the folder above with `options = { disease = "AMD" }`, or the folder of one of the two. A
subject is a volume for the mode slices; its B-scans are in no spatial order, so 2.5d and 3d would
see neighbours that are none.

Source: Rashno et al., IEEE TBME 65 (2018), 989-1001, and PLOS ONE 12 (2017), e0186949.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import need, wrong_tree
from fedssl.data.matlab import cell_count
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_SUBJECTS = {"AMD": 24, "DME": 29}
_EXPECTED = "UMN_Dataset.mat (AMD) or UMNDataset.mat (DME)"


def _counts(spec: SiteSpec) -> dict[str, int]:
    disease = str(spec.options.get("disease", Path(spec.path).name)).upper()
    return {"images": _SUBJECTS[disease]} if disease in _SUBJECTS else {}


@layout(
    "umn",
    options={
        "disease": "AMD or DME, where path is the folder above them",
        "grader": "1 (default) or 2",
    },
    published=_counts,
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a case per subject that has masks.

    Raises:
        DataError: no such file, or it lacks a variable.
    """
    root = site_folder(spec.path, spec.name)
    if "disease" in spec.options:
        disease = choice(spec, "disease", tuple(_SUBJECTS), "")
        routes = [(disease,), ("OCT", disease)]
        root = need(spec, root, "umn", f"{disease}/{_EXPECTED}", *routes)
    masks = f"ManualFluid{choice(spec, 'grader', ('1', '2'), '1')}"
    files = [p for p in files_by_stem(root).values() if p.suffix.lower() == ".mat"]
    if len(files) != 1:
        raise wrong_tree(spec, root, "umn", f"one file {_EXPECTED}")
    path = files[0]
    count = min(cell_count(path, "AllSubjects"), cell_count(path, masks))
    return [
        CaseFile(
            name := f"subject{i + 1:02d}",
            name,
            path,
            path,
            f"AllSubjects/{i}",
            f"{masks}/{i}",
            code=BINARY,
        )
        for i in range(count)
    ]
