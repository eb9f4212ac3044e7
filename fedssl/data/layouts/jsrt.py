"""`jsrt`: chest radiographs of JSRT with the masks of SCR.

```
<path>/All247images/JPCLN001.IMG ..      # raw, 2048 x 2048; or PNG copies of any size
<path>/scratch/fold{1,2}/masks/{left lung,right lung,heart,left clavicle,right clavicle}/*.gif
```
`scr/scratch/..` is found as well, and so are masks beside the images' folder. Masks are 1024 x 1024
and are brought to the images' size. Fold 1 (odd numbers) trains and fold 2 is tested, as the
authors have it; `split = "folds"` splits by a hash instead.

Source: Shiraishi et al., AJR 174 (2000), 71-74; van Ginneken et al., Medical Image Analysis 10
(2006), 19-40.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, MaskLayer, files_by_stem, site_folder
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.tree import Name, find, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_IMAGES: Name = ("All247images", "All247images-PNG", "images", "CXR_png")
_STRUCTURES: Mapping[str, Mapping[str, int]] = {
    "lungs": {"left lung": 1, "right lung": 1},
    "heart": {"heart": 1},
    "clavicles": {"left clavicle": 1, "right clavicle": 1},
    "organs": {
        "left lung": 1,
        "right lung": 1,
        "heart": 2,
        "left clavicle": 3,
        "right clavicle": 3,
    },
}
"""Class of each mask; later ones are painted over earlier ones."""
_NAME = re.compile(r"(?i)JPC(LN|NN)(\d{3})")
_PARTS = {"fold1": "train", "fold2": "test"}
_EXPECTED = "All247images/JPCLN001.IMG (or .png) and scratch/fold1/masks/<structure>/JPCLN001.gif"


@layout(
    "jsrt",
    options={
        "structures": "lungs (default), heart, clavicles, or organs (classes background, lungs, "
        "heart, clavicles)"
    },
    published={"images": 247, "masks": 247, "train": 124, "test": 123},
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the radiographs with the split of SCR's two folds; each is a person.

    Raises:
        DataError: no such tree, or a radiograph lacks some of its masks.
    """
    root = site_folder(spec.path, spec.name)
    classes = _STRUCTURES[choice(spec, "structures", tuple(_STRUCTURES), "lungs")]
    images = files_by_stem(find(root, _IMAGES) or root)
    images = {n.upper(): p for n, p in images.items() if _NAME.fullmatch(n)}
    if not images:
        raise wrong_tree(spec, root, "jsrt", _EXPECTED)
    masks = _masks(root, classes)
    cases = []
    for name, path in images.items():
        found = {s: masks[s][name] for s in classes if name in masks[s]}
        if found and len(found) < len(classes):
            lacking = ", ".join(s for s in classes if s not in found)
            raise DataError(
                f"{path} has masks of some structures, but none of: {lacking}. Copy all folders "
                "of SCR's masks."
            )
        layers = tuple(MaskLayer(found[s], i, "") for s, i in classes.items() if found)
        cases.append(CaseFile(name, name, path, layers=layers, split=_part(name), scaled=True))
    return cases


def _part(name: str) -> str:
    """Return the part of a radiograph: odd numbers are in fold 1."""
    return _PARTS["fold1" if int(name[-3:]) % 2 else "fold2"]


def _masks(root: Path, classes: Mapping[str, int]) -> dict[str, dict[str, Path]]:
    """Return the masks of each structure by radiograph, of both folds."""
    found: dict[str, dict[str, Path]] = {structure: {} for structure in classes}
    routes: tuple[tuple[Name, ...], ...] = (("scratch",), ("scr", "scratch"), ("scr",), ())
    for fold in _PARTS:
        folder = next((f for r in routes if (f := find(root, *r, fold, "masks"))), None)
        for structure in classes:
            place = None if folder is None else find(folder, structure)
            files = {} if place is None else files_by_stem(place)
            found[structure].update({n.upper(): p for n, p in files.items()})
    return found
