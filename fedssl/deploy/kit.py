"""Folders to hand out: one for the coordinator, one per hospital."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from fedssl.deploy.authority import certified_names
from fedssl.deploy.keyring import Keyring, extend_keyring, open_keyring
from fedssl.deploy.nodes import Node, registration_csv
from fedssl.deploy.private_files import make_private_folder, write_new, write_private
from fedssl.deploy.site_file import SiteDraft, write_site_file
from fedssl.deploy.spec import DeploySpec
from fedssl.deploy.versions import VERSIONS, this_machine
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

__all__ = ["Kits", "template", "write_kits"]

EXPERIMENT: Final = """\
# Keys of the run; see `fedssl methods` for what there is.
method = "denoise"
rounds = 30
min-labeled = {labeled}
min-unlabeled = {unlabeled}
round-timeout = 3600.0
"""


@dataclass(frozen=True, slots=True)
class Kits:
    """What was written.

    Args:
        folder: holds `authority`, `coordinator` and `sites/<name>`.
        coordinator: the coordinator's folder.
        sites: each hospital's folder, by site name.
    """

    folder: Path
    coordinator: Path
    sites: dict[str, Path]


def template(name: str) -> str:
    """Return a file that comes with the package, e.g. `site.yml`."""
    return (files("fedssl.deploy") / "files" / name).read_text(encoding="utf-8")


def write_kits(spec: DeploySpec, folder: Path, keys: Path | None = None) -> Kits:
    """Write the folders of a deployment.

    Args:
        spec: the deployment.
        folder: a new or empty folder.
        keys: folder that `fedssl keys` made; sites and the server get new keys where it has none.

    Raises:
        DataError: the folder is not empty, or the keys are for another host.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; kits are written into a new folder.")
    make_private_folder(folder)
    ring = _complete(keys or folder / "made", spec)
    coordinator = _write_coordinator(spec, folder, ring)
    sites = {s.name: _write_site(spec, s, folder / "sites" / s.name, ring) for s in spec.sites}
    if keys is None:
        shutil.move(ring.folder / "authority", folder / "authority")
        shutil.rmtree(ring.folder)
    return Kits(folder, coordinator, sites)


def _complete(folder: Path, spec: DeploySpec) -> Keyring:
    """Return a keyring with everything that the deployment needs."""
    have = open_keyring(folder)
    host, certificate = spec.coordinator.host, have.server / "server.pem"
    hosts = [] if certificate.is_file() else [host]
    if not hosts and host not in (known := certified_names(certificate)):
        raise DataError(
            f"{certificate} is for {', '.join(known)}, not for {host!r}, so no site would trust "
            "the coordinator. Correct the host, or move server.pem and server.key away: a new "
            "pair is made, if ca.key is there."
        )
    new = [site.name for site in spec.sites if site.name not in have.nodes]
    return extend_keyring(folder, hosts=hosts, sites=new) if hosts or new else have


def _write_coordinator(spec: DeploySpec, folder: Path, ring: Keyring) -> Path:
    target = make_private_folder(folder / "coordinator")
    values = _values(spec)
    write_new(target / "docker-compose.yml", template("coordinator.yml"))
    write_new(target / ".env", _environment("coordinator", spec))
    write_new(target / "README.md", template("coordinator_readme.md").format(**values))
    labeled = sum(site.role != "unlabeled" for site in spec.sites)
    counts = {"labeled": max(1, labeled), "unlabeled": min(1, len(spec.sites) - labeled)}
    write_new(target / "experiment.toml", EXPERIMENT.format(**counts))
    for name in ("proxy", "runs", "keys", "keys/server", "keys/authority", "keys/nodes"):
        make_private_folder(target / name)
    write_new(target / "proxy" / "nginx.conf", template("nginx.conf"))
    write_new(target / "keys/authority/ca.crt", ring.root_certificate.read_bytes())
    write_new(target / "keys/server/server.pem", (ring.server / "server.pem").read_bytes())
    for name in ("server.key", "superexec.secret"):
        write_private(target / "keys/server" / name, (ring.server / name).read_bytes())
    nodes = [_copied(ring.nodes[site.name], target / "keys/nodes") for site in spec.sites]
    write_new(target / "keys/nodes.csv", registration_csv(nodes, target / "keys"))
    return target


def _copied(node: Node, folder: Path) -> Node:
    """Copy a public key; the private half belongs to its site alone."""
    path = write_new(folder / node.public_key.name, node.public_key.read_bytes())
    return Node(node.site, path)


def _write_site(spec: DeploySpec, site: SiteSpec, target: Path, ring: Keyring) -> Path:
    make_private_folder(target)
    values = _values(spec) | {"site": site.name, "service": "site"}
    write_new(target / "docker-compose.yml", template("site.yml"))
    write_new(target / ".env", _environment("site", spec, site))
    write_site_file(target / "site.toml", _draft(spec, site))
    write_new(target / "README.md", template("site_readme.md").format(**values))
    write_new(target / VERSIONS, json.dumps(this_machine(), indent=2) + "\n")
    keys = make_private_folder(target / "keys")
    write_new(keys / "ca.crt", ring.root_certificate.read_bytes())
    public = ring.nodes[site.name].public_key
    write_new(keys / "node.pub", public.read_bytes())
    private = public.with_suffix("")
    # A hospital that sent its public key only puts its own private half here.
    if private.is_file():
        write_private(keys / "node.key", private.read_bytes())
    return target


def _draft(spec: DeploySpec, site: SiteSpec) -> SiteDraft:
    return SiteDraft(
        name=site.name,
        role=site.role.value,
        task=spec.task.model_dump(mode="json"),
        coordinator=spec.coordinator.address,
        path="" if site.layout == "synthetic" else "/data",
        layout=site.layout,
        spacing=site.spacing,
        labeled=site.labeled,
        options=dict(site.options),
        state_dir="/state",
    )


def _values(spec: DeploySpec) -> dict[str, str]:
    return {
        "federation": spec.task.name,
        "address": spec.coordinator.address,
        "image": spec.coordinator.image,
    }


def _environment(kind: str, spec: DeploySpec, site: SiteSpec | None = None) -> str:
    """Return `.env` with what the deployment knows; the rest keeps its default."""
    known = {"FEDSSL_IMAGE": spec.coordinator.image, "FEDSSL_PORT": str(spec.coordinator.port)}
    if site is not None:
        known["COMPOSE_PROJECT_NAME"] = f"fedssl-{site.name.lower()}"
        known |= {"FEDSSL_DATA": site.path} if site.path else {}
    if kind == "coordinator":
        known["COMPOSE_PROFILES"] = ""
    lines = []
    for line in template("env.example").splitlines():
        key, sep, _ = line.partition("=")
        lines.append(f"{key}={known[key]}" if sep and key in known else line)
    return "\n".join(lines) + "\n"
