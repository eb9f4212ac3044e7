"""The coordinator's folder of keys: authority, server certificate, node keys, registration list."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedssl.deploy.authority import (
    create_authority,
    load_authority,
    require_host,
    write_server_certificate,
)
from fedssl.deploy.nodes import (
    REGISTRATION,
    Node,
    create_node_key,
    registration_csv,
    require_site_name,
)
from fedssl.deploy.private_files import make_private_folder, require_absent, write_private
from fedssl.errors import ConfigError
from fedssl.memory import write_atomically

__all__ = ["Keyring", "extend_keyring", "open_keyring"]


@dataclass(frozen=True, slots=True)
class Keyring:
    """A folder of keys.

    Args:
        folder: holds `authority/{ca.crt,ca.key}`, `server/{server.pem,server.key,
            superexec.secret}`, `nodes/{<site>,<site>.pub}` and the registration list.
        nodes: sites with a public key, by name.
        written: files that were made just now.
    """

    folder: Path
    nodes: dict[str, Node]
    written: list[Path] = field(default_factory=list)

    @property
    def authority(self) -> bool:
        """Whether there is a certificate authority."""
        return self.root_certificate.is_file()

    @property
    def root_certificate(self) -> Path:
        """The root that sites trust."""
        return self.folder / "authority" / "ca.crt"

    @property
    def server(self) -> Path:
        """Folder of the server's certificate and key."""
        return self.folder / "server"

    @property
    def registration(self) -> Path:
        """The registration list."""
        return self.folder / REGISTRATION


def open_keyring(folder: Path) -> Keyring:
    """Return the keys in a folder; none, if it does not exist."""
    public = sorted((folder / "nodes").glob("*.pub"))
    return Keyring(folder, {path.stem: Node(path.stem, path) for path in public})


def extend_keyring(folder: Path, *, hosts: Sequence[str], sites: Sequence[str]) -> Keyring:
    """Make what is asked for and not there yet.

    Args:
        folder: folder of the keys.
        hosts: public names of the coordinator; makes an authority, if there is none, and a
            server certificate.
        sites: who gets a key pair.

    Raises:
        ConfigError: nothing is asked for, or a name cannot be used.
        DataError: a file exists already.
    """
    if not hosts and not sites:
        raise ConfigError("Nothing to make: give --host NAME, --site NAME, or both.")
    for host in hosts:
        require_host(host)
    for site in sites:
        require_site_name(site)
    ring = open_keyring(folder)
    require_absent(ring.server / name for name in ("server.key", "server.pem") if hosts)
    require_absent(folder / "nodes" / name for site in sites for name in (site, f"{site}.pub"))
    make_private_folder(folder)
    if hosts:
        root = folder / "authority"
        new = not ring.authority
        authority = create_authority(root) if new else load_authority(root)
        ring.written.extend([root / "ca.crt", root / "ca.key"] if new else [])
        ring.written.append(write_server_certificate(authority, ring.server, hosts))
        ring.written.append(ring.server / "server.key")
        secret = ring.server / "superexec.secret"
        if not secret.exists():
            ring.written.append(write_private(secret, secrets.token_hex(32).encode()))
    for site in sites:
        node = create_node_key(folder / "nodes", site)
        ring.nodes[site] = node
        ring.written.extend([node.public_key.with_suffix(""), node.public_key])
    if ring.nodes:
        write_atomically(ring.registration, registration_csv(ring.nodes.values(), folder).encode())
    return ring
