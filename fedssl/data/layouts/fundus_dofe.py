"""`fundus-dofe`: the fundus tree of DoFE, BEAL, FedDG, DPL and MiDSS, `Domain1` .. `Domain4`.

`Domain1/{train,test}/ROIs/{image,mask}/*.png`: crops of 800 x 800 around the disc, masks of 0
(cup), 128 (rim) and 255 under the images' names. The folders beside `ROIs` hold the full pictures.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.fundus import STRUCTURE, fundus_code, fundus_subject
from fedssl.data.layouts.layout import choice, flag, layout
from fedssl.data.layouts.parts import cases_in_parts
from fedssl.data.layouts.tree import need, wrong_tree
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_DOMAINS = ("Domain1", "Domain2", "Domain3", "Domain4", "Domain5")
_COUNTS = {"domain1": (50, 51), "domain2": (99, 60), "domain3": (320, 80), "domain4": (320, 80)}
"""Training and test images of Drishti-GS, RIM-ONE-r3, REFUGE train and REFUGE validation."""

_EXPECTED = (
    "train/ROIs/image and train/ROIs/mask (the same below test), with path at one domain or "
    'options = { domain = "Domain1" }'
)


def _counts(spec: SiteSpec) -> dict[str, int]:
    name = str(spec.options.get("domain", Path(spec.path).name)).casefold()
    if name not in _COUNTS:
        return {}
    train, test = _COUNTS[name]
    return {"images": train + test, "masks": train + test, "train": train, "test": test}


@layout(
    "fundus-dofe",
    options={
        "domain": f"one of {', '.join(_DOMAINS)}, where path is the folder above them",
        "raw": "true: the full pictures instead of the crops in ROIs",
        **STRUCTURE,
    },
    published=_counts,
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a domain's cases, with the published split.

    Raises:
        DataError: there are no crops and raw pictures were not asked for, or no such tree.
    """
    root = site_folder(spec.path, spec.name)
    folder = root
    if "domain" in spec.options:
        domain = choice(spec, "domain", _DOMAINS, "")
        routes = [(domain,), ("Fundus", domain)]
        folder = need(spec, root, "fundus-dofe", f"{domain}/{_EXPECTED}", *routes)
    code = fundus_code(spec)
    raw = cases_in_parts(folder, code=code, subject=fundus_subject)
    if flag(spec, "raw"):
        cases = raw
    else:
        cases = cases_in_parts(folder, code=code, subject=fundus_subject, within=("ROIs",))
        if raw and not cases:
            raise DataError(
                f"Site {spec.name!r}: {folder} holds the full pictures only; their sizes vary, and "
                "those of RIM-ONE show an eye twice. Copy the ROIs folders of train and test as "
                "well, or set options = { raw = true }."
            )
    if not cases:
        raise wrong_tree(spec, folder, "fundus-dofe", _EXPECTED)
    return cases
