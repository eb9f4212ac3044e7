"""A digest of the code that runs, so that a site with other code is noticed before round 0.

Flower ships the three packages to every site, but a Ray actor puts its working directory, and a
site may have an older installation, in front of what was shipped.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedssl.errors import FederationError

__all__ = ["PACKAGES", "code_fingerprint", "package_folders"]

PACKAGES: Final = ("fedssl", "clients", "server")


@cache
def code_fingerprint() -> str:
    """Return the sha256 over the sources of `fedssl`, `clients` and `server` (64 hex digits).

    Each `*.py` file counts with its path relative to the folder that holds its package, and with
    its bytes; nothing is imported. Exactly these files travel in the Flower app bundle, so the
    value is the same for a checkout, an installed wheel and a bundle of the same version.

    Raises:
        FederationError: one of the packages cannot be found.
    """
    return _digest(package_folders())


def package_folders() -> list[Path]:
    """Return the folders of the three packages, as an import would find them.

    Raises:
        FederationError: one of them cannot be found.
    """
    return [_folder(package) for package in PACKAGES]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FederationError(
            f"Package {package!r} is not importable; install fedssl with 'pip install .', which "
            f"brings {', '.join(PACKAGES)}."
        )
    return Path(spec.submodule_search_locations[0])


def _digest(packages: list[Path]) -> str:
    digest = hashlib.sha256()
    for package in packages:
        named = {
            path.relative_to(package.parent).as_posix(): path for path in package.rglob("*.py")
        }
        for name in sorted(named):
            content = named[name].read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
