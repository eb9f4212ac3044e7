"""`prostate-saml`: T2 prostate MRI of six sites, `<site>/CaseXX.nii.gz` and its segmentation.

The masks are `CaseXX_segmentation.nii.gz` or `CaseXX_Segmentation.nii.gz`; their values 1 and 2
(the zones) both mean prostate.
"""

from __future__ import annotations

from fedssl.data.layouts.cases import CaseFile, MaskCode, files_by_stem, site_folder
from fedssl.data.layouts.layout import layout
from fedssl.data.layouts.prostate import SITE, prostate_folder, prostate_site
from fedssl.data.layouts.tree import masks_of, split_off, wrong_tree
from fedssl.federation import SiteSpec

__all__ = ["list_cases"]

_CASES = {"RUNMC": 30, "BMC": 30, "I2CVB": 19, "UCL": 13, "BIDMC": 12, "HK": 12}
_EXPECTED = (
    "CaseXX.nii.gz and CaseXX_segmentation.nii.gz, with path at one site or "
    'options = { site = "RUNMC" }'
)
_CODE = MaskCode(((0, 0, 0), (1, 2, 1)))


def _counts(spec: SiteSpec) -> dict[str, int]:
    site = prostate_site(spec)
    return {"images": _CASES[site], "masks": _CASES[site]} if site else {}


@layout("prostate-saml", options=SITE, published=_counts)
def list_cases(spec: SiteSpec) -> list[CaseFile]:
    """Return a site's cases; each is a person.

    Raises:
        DataError: no such tree, or a segmentation without its image.
    """
    root = site_folder(spec.path, spec.name)
    folder = prostate_folder(spec, root, "prostate-saml", _EXPECTED)
    images, masks = split_off(files_by_stem(folder), ("_segmentation",))
    if not images:
        raise wrong_tree(spec, folder, "prostate-saml", _EXPECTED)
    paired = masks_of(images, masks)
    return [CaseFile(n, n, path, paired.get(n), code=_CODE) for n, path in images.items()]
