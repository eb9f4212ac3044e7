"""Node keys: who may join. The coordinator holds the public halves in a registration list."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from fedssl.deploy.private_files import make_private_folder, write_new, write_private
from fedssl.errors import ConfigError, DataError

__all__ = [
    "REGISTRATION",
    "Node",
    "create_node_key",
    "read_registration",
    "registration_csv",
    "require_site_name",
]

REGISTRATION: Final = "nodes.csv"
"""Name of the registration list: columns site and key, the latter relative to the list."""

_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Node:
    """One row of the registration list.

    Args:
        site: name of the site.
        public_key: file with its public key, in OpenSSH's format.
    """

    site: str
    public_key: Path


def require_site_name(name: str) -> str:
    """Return a site's name; refuse one that is no safe file name.

    Raises:
        ConfigError: the name has other characters than letters, digits, `-` and `_`.
    """
    if not _SITE.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no site name: use up to 64 letters, digits, '-' and '_', beginning with "
            "a letter or digit."
        )
    return name


def create_node_key(folder: Path, site: str) -> Node:
    """Write `<site>` (0600) and `<site>.pub`: EC P-384 in OpenSSH's format, as SuperNodes want it.

    Raises:
        ConfigError: the name cannot be a file name.
        DataError: one of the files exists already.
    """
    require_site_name(site)
    make_private_folder(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_private(folder / site, private)
    path = write_new(folder / f"{site}.pub", public + f" {site}\n".encode())
    return Node(site, path)


def registration_csv(nodes: Iterable[Node], base: Path) -> str:
    """Return the registration list of some nodes.

    Args:
        nodes: whom to list; sorted by name.
        base: folder that the list will lie in.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["site", "key"])
    for node in sorted(nodes, key=lambda n: n.site):
        writer.writerow([node.site, node.public_key.relative_to(base).as_posix()])
    return text.getvalue()


def read_registration(path: Path) -> list[Node]:
    """Read a registration list and check its keys.

    Raises:
        DataError: the list or one of its keys cannot be read, or a site or key stands twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        nodes = [Node(require_site_name(r["site"]), path.parent / r["key"]) for r in rows]
        keys = [_public_key(node) for node in nodes]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, csv.Error, ConfigError) as error:
        raise DataError(
            f"{path} is no registration list ({error}); it needs the columns site and key. "
            "'fedssl keys' writes one."
        ) from None
    _require_distinct([n.site for n in nodes], "site", path)
    _require_distinct(keys, "key", path)
    return nodes


def _public_key(node: Node) -> str:
    content = node.public_key.read_bytes()
    try:
        key = load_ssh_public_key(content)
    except ValueError as error:
        raise DataError(f"{node.public_key} is no OpenSSH public key: {error}.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DataError(f"{node.public_key} is no EC key; make one with 'fedssl keys'.")
    return content.split()[1].decode()


def _require_distinct(values: Sequence[str], what: str, path: Path) -> None:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise DataError(f"{path} lists the {what} {twice[0]!r} twice.")
