"""Which code a site lets run: the bundle that the coordinator sends is checked before it is opened.

A Flower app bundle is a zip file. Nothing here imports or unpacks it.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from fedssl.errors import FederationError
from fedssl.fingerprint import package_folders

__all__ = ["Accept", "BundleRefusedError", "require_accepted"]

Accept = Literal["installed", "any"] | tuple[str, ...]

PROJECT: Final = "pyproject.toml"
CLIENT_APP: Final = "clients.app:app"
LARGEST: Final = 10 * 2**20
"""Bytes of one bundle file that are read; Flower's own limit for a whole bundle."""

_VERSION: Final = re.compile(r"\d+(\.\d+){0,3}([a-z0-9.+-]{0,20})")


class BundleRefusedError(FederationError):
    """A site does not let this code run."""


def require_accepted(content: bytes, accept: Accept) -> str:
    """Return the sha256 of a bundle that the site accepts.

    Args:
        content: the bundle as it was received.
        accept: `any`; `installed`: every Python file in it is, byte for byte, the file of the same
            name in this installation, and it starts this project's ClientApp; or digests.

    Raises:
        BundleRefusedError: the bundle is another; the message names what differs.
    """
    digest = hashlib.sha256(content).hexdigest()
    if accept == "installed":
        _require_installed(content, digest)
    elif accept != "any" and digest not in accept:
        raise BundleRefusedError(
            f"The bundle has the sha256 {digest}; this site accepts {', '.join(accept)}. If the "
            "coordinator has announced new code, look at it and add its digest to accept-code."
        )
    return digest


def _require_installed(content: bytes, digest: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            _check_members(bundle, digest)
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise _refused(digest, f"it is no readable bundle ({error})") from None


def _check_members(bundle: zipfile.ZipFile, digest: str) -> None:
    installed = _installed_files()
    names = [member.filename for member in bundle.infolist()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refused(digest, f"it holds {twice[0]!r} twice")
    for member in bundle.infolist():
        name = member.filename
        if name == PROJECT:
            _check_project(_read(bundle, member, digest), digest)
        elif name in installed:
            if _read(bundle, member, digest) != installed[name].read_bytes():
                raise _refused(digest, f"{name} differs from the installed file")
        elif not _harmless(name):
            raise _refused(digest, f"it brings {name!r}, which is not installed here")
    if PROJECT not in names:
        raise _refused(digest, f"it has no {PROJECT}")


def _installed_files() -> dict[str, Path]:
    return {
        path.relative_to(package.parent).as_posix(): path
        for package in package_folders()
        for path in package.rglob("*.py")
    }


def _harmless(name: str) -> bool:
    """Whether Python never runs a file of this name: Flower's manifest and the licence."""
    path = PurePosixPath(name)
    return name == "LICENSE" or (path.parent == PurePosixPath(".info") and "." not in path.name)


def _read(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, digest: str) -> bytes:
    if member.file_size > LARGEST:
        raise _refused(digest, f"{member.filename!r} has {member.file_size} bytes")
    with bundle.open(member) as file:
        return file.read(LARGEST + 1)


def _check_project(content: bytes, digest: str) -> None:
    """Accept this project's name and ClientApp only; both decide what is imported from where."""
    try:
        tables: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
        project, app = tables["project"], tables["tool"]["flwr"]["app"]
        found = (project["name"], app["publisher"], app["components"]["clientapp"])
        version = str(project["version"])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise _refused(digest, f"its {PROJECT} is incomplete ({error})") from None
    if found != ("fedssl", "fedssl", CLIENT_APP) or not _VERSION.fullmatch(version):
        raise _refused(digest, f"its {PROJECT} names {found} in version {version!r}")


def _refused(digest: str, reason: str) -> BundleRefusedError:
    return BundleRefusedError(
        f"The bundle {digest} is not the code that is installed at this site: {reason}. Install "
        "the coordinator's version of fedssl here, or ask for one that was made from yours "
        '(accept-code = "installed").'
    )
