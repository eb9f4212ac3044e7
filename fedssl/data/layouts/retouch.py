"""`retouch`: retinal fluid in OCT volumes of three vendors; a vendor is a natural site.

```
<path>/RETOUCH-TrainingSet-{Cirrus,Spectralis,Topcon}/TRAIN0xx/{oct.mhd,oct.raw,
                                                                reference.mhd,reference.raw}
<path>/RETOUCH-TestSet-{Cirrus,Spectralis,Topcon}/TEST0xx/{oct.mhd,oct.raw}     # no masks
```
Set `options = { vendor = "Cirrus" }`; other spellings of the folders (`TrainingCirrus`) and folders
in folders are found too. Labels: 0 background, 1 intraretinal fluid, 2 subretinal fluid, 3 pigment
epithelial detachment. A volume is never split.

Source: Bogunovic et al., "RETOUCH: the retinal OCT fluid detection and segmentation benchmark and
challenge", IEEE TMI 38 (2019), 1858-1874.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, is_junk, site_folder
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_VENDORS = ("Cirrus", "Spectralis", "Topcon")
_IMAGE, _MASK = "oct.mhd", "reference.mhd"
_EXPECTED = f"RETOUCH-TrainingSet-<vendor>/TRAIN0xx/{_IMAGE} and {_MASK}"


def _counts(spec: SiteSpec) -> dict[str, int]:
    """The count of Cirrus is the only one that we could confirm."""
    wanted = (spec.options.get("vendor"), spec.options.get("volumes", "train"))
    return {"images": 24, "masks": 24} if wanted == ("Cirrus", "train") else {}


@layout(
    "retouch",
    options={
        "vendor": f"one of {', '.join(_VENDORS)}; needed where several lie below path",
        "volumes": "train (default: those with masks), test, or all",
    },
    published=_counts,
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a vendor's volumes; each is a person.

    Raises:
        DataError: no such tree, or volumes of several vendors.
    """
    root = site_folder(spec.path, spec.name)
    found = {folder: _vendor(folder) for folder in _volumes(root)}
    if not found:
        raise wrong_tree(spec, root, "retouch", _EXPECTED)
    if "vendor" in spec.options:
        wanted = choice(spec, "vendor", _VENDORS, "")
        found = {f: v for f, v in found.items() if v == wanted}
    vendors = sorted({vendor or "unknown" for vendor in found.values()})
    if len(vendors) > 1:
        raise DataError(
            f"Site {spec.name!r}: {root} holds volumes of {', '.join(vendors)}. A vendor is "
            f'one site: set options = {{ vendor = "{vendors[0]}" }}, and add a site for each other.'
        )
    volumes = choice(spec, "volumes", ("train", "test", "all"), "train")
    cases = [_case(folder) for folder in found]
    return [c for c in cases if volumes in ("all", "train" if c.label else "test")]


def _case(folder: Path) -> CaseFile:
    files = {p.name.lower(): p for p in folder.iterdir()}
    return CaseFile(folder.name, folder.name, files[_IMAGE], files.get(_MASK))


def _volumes(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        if _IMAGE in {name.lower() for name in names}:
            yield Path(place)


def _vendor(folder: Path) -> str:
    """Return the vendor that the nearest folder above names."""
    for above in folder.parents:
        for vendor in _VENDORS:
            if vendor.casefold() in above.name.casefold():
                return vendor
    return ""
