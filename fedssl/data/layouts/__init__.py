"""Named ways in which public and private data lie on disk. A layout is one function."""

from __future__ import annotations

from collections.abc import Callable

from fedssl.data.layouts import folders
from fedssl.data.layouts.cases import CaseFile
from fedssl.federation import SiteSpec

__all__ = ["LAYOUTS", "CaseFile"]

LAYOUTS: dict[str, Callable[[SiteSpec], list[CaseFile]]] = {
    "folders": folders.list_cases,
}
"""`list_cases` of each layout, by the name that `layout` has in a federation file."""
