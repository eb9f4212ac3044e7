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


_KEYS = {
    "image": "name of the dataset with the image (image)",
    "label": "name of the dataset with the mask (label)",
}


@layout("h5", options={**AXES, **_KEYS})
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a folder's cases; each file is one.

    Raises:
        DataError: no such files.
    """
    root = site_folder(spec.path, spec.name)
    folder = find(root, "data") or root
    axes = axes_of(spec, "zyx")
    image, label = (str(spec.options.get(key, key)) for key in _KEYS)
    files = h5_files(folder)
    cases = [h5_case(path, name, name, axes, (image, label)) for name, path in files.items()]
    if not cases:
        raise wrong_tree(spec, root, "h5", "<case>.h5 with the datasets image and label")
    return in_listed_parts(spec, cases, (root, folder), _LISTS)
