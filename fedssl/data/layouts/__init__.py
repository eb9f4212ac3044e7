"""Named ways in which public and private data lie on disk. A layout is one function."""

from __future__ import annotations

from fedssl.data.layouts import folders
from fedssl.data.layouts.cases import CaseFile
from fedssl.data.layouts.layout import Layout

__all__ = ["LAYOUTS", "CaseFile", "Layout"]

_ALL = (folders.list_cases,)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}
"""Every layout, by the name that `layout` has in a federation file."""
