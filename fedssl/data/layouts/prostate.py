"""What the prostate layouts share: six sites, three of which have two names."""

from __future__ import annotations

from pathlib import Path

from fedssl.data.layouts.layout import choice
from fedssl.data.layouts.tree import Name, need
from fedssl.federation import SiteSpec

__all__ = ["SITE", "SITES", "prostate_folder", "prostate_site"]

SITES: dict[str, tuple[str, ...]] = {
    "RUNMC": ("RUNMC", "ISBI"),
    "BMC": ("BMC", "ISBI_1.5"),
    "I2CVB": ("I2CVB", "HCRUDB"),
    "UCL": ("UCL",),
    "BIDMC": ("BIDMC",),
    "HK": ("HK",),
}
"""Folder names of each site: that of the release and the older one."""

SITE = {"site": f"one of {', '.join(SITES)}, where path is the folder above them"}


def prostate_site(spec: SiteSpec) -> str:
    """Return which of the six a site is, by its option or its folder's name; else nothing."""
    given = str(spec.options.get("site", Path(spec.path).name)).casefold()
    return next((s for s, names in SITES.items() if given in {n.casefold() for n in names}), "")


def prostate_folder(spec: SiteSpec, root: Path, layout: str, expected: str, *above: Name) -> Path:
    """Return a site's folder below `root` (or below `above` in it); without the option, `root`.

    Raises:
        DataError: an unknown site, or it has no folder.
    """
    if "site" not in spec.options:
        return root
    choice(spec, "site", [name for names in SITES.values() for name in names], "")
    names = SITES[prostate_site(spec)]
    return need(spec, root, layout, f"{names[0]}/{expected}", (names,), (*above, names))
