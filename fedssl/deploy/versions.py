"""What a machine runs, written into each kit so that a site can compare."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

from fedssl.fingerprint import code_fingerprint

__all__ = ["VERSIONS", "this_machine"]

VERSIONS: Final = "versions.json"
"""Name of the file in a kit."""


def this_machine() -> dict[str, str]:
    """Return versions of what decides results, and `code`, the digest of fedssl's sources."""
    found = {"python": platform.python_version()}
    for name in ("fedssl", "torch", "monai", "numpy", "SimpleITK", "flwr"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "code": code_fingerprint()}
