"""`prostate-midss`: prostate slices as PNG, `ProstateSlice/<site>/{train,test}/{image,mask}`.

`CC_SS.png` is slice SS of case CC. Masks are inverted: 0 is prostate, 255 background; a mask that
is not (dark corners) is read as well.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, MaskCode, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.parts import cases_in_parts
from fedssl.data.layouts.prostate import SITE, prostate_folder, prostate_site
from fedssl.data.layouts.tree import wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_TRAIN = {"BIDMC": 225, "BMC": 305, "HK": 136, "I2CVB": 373, "RUNMC": 338, "UCL": 133}
_EXPECTED = (
    "train/image/CC_SS.png and train/mask/CC_SS.png (the same below test), with path at one site "
    'or options = { site = "RUNMC" }'
)


def _counts(spec: SiteSpec) -> dict[str, int]:
    site = prostate_site(spec)
    return {"train": _TRAIN[site]} if site else {}


@layout("prostate-midss", options=SITE, published=_counts)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a site's slices, with the published split; all slices of a case are one subject's.

    Raises:
        DataError: no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = prostate_folder(spec, root, "prostate-midss", _EXPECTED, "ProstateSlice")
    code = MaskCode(inverted="corners")
    cases = cases_in_parts(folder, code=code, subject=lambda stem: stem.rpartition("_")[0] or stem)
    if not cases:
        raise wrong_tree(spec, folder, "prostate-midss", _EXPECTED)
    return cases
