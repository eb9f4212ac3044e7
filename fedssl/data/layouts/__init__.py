"""Named ways in which public and private data lie on disk. A layout is one function."""

from __future__ import annotations

from fedssl.data.layouts import (
    folders,
    fundus_dofe,
    fundus_sites,
    prostate_midss,
    prostate_saml,
)
from fedssl.data.layouts.cases import CaseFile
from fedssl.data.layouts.layout import Layout

__all__ = ["LAYOUTS", "CaseFile", "Layout"]

_ALL = (
    folders.list_cases,
    fundus_dofe.list_cases,
    fundus_sites.list_cases,
    prostate_midss.list_cases,
    prostate_saml.list_cases,
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""Every layout, by the name that `layout` has in a federation file."""
