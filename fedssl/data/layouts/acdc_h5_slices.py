"""`acdc-h5-slices`: the slices of ACDC as files of their own, for mode 2d.

```
<path>/data/slices/patientPPP_frameFF_slice_S.h5       # image, label (0..3)
<path>/train_slices.list                               # slices to train on; optional
<path>/train.list, <path>/val.list, <path>/test.list   # frames; optional, the split
```
Of training patients only the listed slices are kept (1312; other releases list fewer). Slices of
one patient are one subject.

Source: Luo, "SSL4MIS" (the preprocessing); Bernard et al., IEEE TMI 2018 (data).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedssl.data.layouts.acdc import ACDC_LISTS, frame_of, patient_of
from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import h5_case, h5_files, in_listed_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_SLICES = {"train": ("train_slices.list", "train_slices.txt")}


@layout("acdc-h5-slices", published={"train": 1312})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the slices with the published split.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "data", "slices") or find(root, "slices") or root
    files = {n: p for n, p in h5_files(folder).items() if frame_of(n) not in ("", n)}
    cases = [h5_case(path, name, patient_of(name)) for name, path in files.items()]
    if not cases:
        raise wrong_tree(spec, root, "acdc-h5-slices", "data/slices/patientPPP_frameFF_slice_S.h5")
    places = tuple(dict.fromkeys((root, folder, folder.parent, root.parent)))
    return _in_parts(spec, cases, places)


def _in_parts(spec: SiteSpec, cases: list[CaseFile], places: tuple[Path, ...]) -> list[CaseFile]:
    """Take parts from the lists of frames, and of training frames only the listed slices."""
    chosen = in_listed_parts(spec, cases, places, _SLICES)
    frames = {frame_of(c.name): replace(c, name=frame_of(c.name)) for c in cases}
    parts = {c.name: c.split for c in in_listed_parts(spec, [*frames.values()], places, ACDC_LISTS)}
    held_out = [
        replace(c, split=parts[frame_of(c.name)])
        for c in cases
        if parts.get(frame_of(c.name), "") in ("val", "test")
    ]
    names = {c.name for c in held_out}
    training = [c for c in chosen if c.name not in names]
    # without held-out slices all would be trained on; then patients are folded instead
    part = "train" if held_out else ""
    return [replace(c, split=part) for c in training] + held_out
