"""`fundus-sites`: the fundus data as `SiteA` .. `SiteD`, `<site>/{train,valid,test}/{image,label}`.

Masks are grey, with 0, 128 and 255 for cup, rim and background (or the same inverted).
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, site_folder
from fedssl.data.layouts.fundus import STRUCTURE, fundus_code, fundus_subject
from fedssl.data.layouts.layout import choice, layout
from fedssl.data.layouts.parts import cases_in_parts
from fedssl.data.layouts.tree import need, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_SITES = ("SiteA", "SiteB", "SiteC", "SiteD")
_EXPECTED = (
    "train/image and train/label (the same below valid and test), with path at one site or "
    'options = { site = "SiteA" }'
)


@layout(
    "fundus-sites",
    options={"site": f"one of {', '.join(_SITES)}, where path is the folder above", **STRUCTURE},
)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a site's cases, with the published split.

    Raises:
        DataError: no such tree.
    """
    folder = site_folder(spec.path, spec.name)
    if "site" in spec.options:
        site = choice(spec, "site", _SITES, "")
        routes = [(site,), ("Fundus", site)]
        folder = need(spec, folder, "fundus-sites", f"{site}/{_EXPECTED}", *routes)
    cases = cases_in_parts(folder, code=fundus_code(spec), subject=fundus_subject)
    if not cases:
        raise wrong_tree(spec, folder, "fundus-sites", _EXPECTED)
    return cases
