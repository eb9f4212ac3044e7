"""`cvc-colondb`: frames `N.bmp` with masks `pN.bmp`, or `{images,masks}/N.png` (380 frames).

The original folder also holds `sN.bmp` (regions without information) and `cN.bmp` (contours), which
are passed over. Which frames show the same sequence no file tells: give it as `index.csv`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from fedssl.data.layouts.cases import BINARY, CaseFile, files_by_stem, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.polyps import IMAGES, MASKS, side_by_side
from fedssl.data.layouts.tree import find, masks_of, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

log = logging.getLogger("fedssl")

_EXPECTED = "N.bmp with masks pN.bmp, or images/N.png and masks/N.png, below CVC-ColonDB or not"


@layout("cvc-colondb")
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return the frames.

    Raises:
        DataError: no such tree, or a mask without its frame.
    """
    root = site_folder(spec.path, spec.name)
    cases = side_by_side(root, [(IMAGES, MASKS)], [(), ("CVC-ColonDB",)])
    if not cases:
        cases = _original(find(root, "CVC-ColonDB") or find(root) or root)
    if not cases:
        raise wrong_tree(spec, root, "cvc-colondb", _EXPECTED)
    if not (root / "index.csv").is_file():
        log.warning(
            f"Site {spec.name!r}: frames of one sequence look alike, but nothing tells the "
            f"sequences of cvc-colondb apart; without {root / 'index.csv'} (columns id, subject) a "
            "split may cut one."
        )
    return cases


def _original(folder: Path) -> list[CaseFile]:
    files = files_by_stem(folder)
    images = {stem: path for stem, path in files.items() if stem.isdecimal()}
    masks = {s[1:]: path for s, path in files.items() if re.fullmatch(r"[pP]\d+", s)}
    paired = masks_of(images, masks)
    return [CaseFile(s, s, path, paired.get(s), code=BINARY) for s, path in images.items()]
