"""`h5`: any folder of HDF5 files with `image` and, where there is a mask, `label`.

```
<path>/<case>.h5                     # image [H, W] or [D, H, W], label alike or missing
<path>/train.list, val.list, test.list (or .txt)   # optional, used as the split
```
`index.csv` (columns id and subject) tells whose image each is.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.h5_files import AXES, axes_of, h5_case, h5_files, in_listed_parts
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.tree import find, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_LISTS = {
    "train": ("train.list", "train.txt"),
    "val": ("val.list", "val.txt"),
    "test": ("test.list", "test.txt"),
}


@layout("h5", options=AXES)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a folder's cases; each file is one.

    Raises:
        DataError: no such files, or a damaged one.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "data") or root
    axes = axes_of(spec, "zyx")
    cases = [h5_case(path, name, name, axes) for name, path in h5_files(folder).items()]
    if not cases:
        raise wrong_tree(spec, root, "h5", "<case>.h5 with the datasets image and label")
    return in_listed_parts(spec, cases, (root, folder), _LISTS)
