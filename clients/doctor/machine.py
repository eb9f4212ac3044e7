"""The site's own machine: key, disk, memory, GPU, versions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from clients.doctor.finding import Finding, bad, good, skipped, warning
from fedssl.deploy.health import healthy
from fedssl.deploy.site_file import NodeSpec
from fedssl.federation import SiteSpec

__all__ = [
    "check_code_policy",
    "check_data",
    "check_disk",
    "check_gpu",
    "check_key",
    "check_memory",
    "check_port",
    "check_versions",
]

GIB: Final = 2**30
DISK: Final = (1 * GIB, 10 * GIB)
"""Free bytes at the state directory: below the first nothing works, below the second little."""

MEMORY: Final = (1 * GIB, 4 * GIB)


def check_key(node: NodeSpec) -> Finding:
    """Look at the node's private key: format, curve, and who may read it."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    if not node.key:
        return warning("node key", "none", "Ask the coordinator for one, or run 'fedssl keys'.")
    path = Path(node.key)
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        remedy = "Put the key that the coordinator gave you there, or correct 'key' in [node]."
        return bad("node key", f"{path} cannot be read: {error.strerror or error}", remedy)
    except (ValueError, TypeError) as error:
        remedy = "It has to be an unencrypted OpenSSH key: fedssl keys --site NAME."
        return bad("node key", f"{path} is no usable key: {error}", remedy)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return bad("node key", f"{path} is no EC key", "Make one: fedssl keys --site NAME.")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return warning(
            "node key", f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}"
        )
    return good("node key", f"{path}, {key.curve.name}")


def check_code_policy(node: NodeSpec) -> Finding:
    """Say which code this site runs."""
    if node.accept_code == "any":
        remedy = 'Set accept-code = "installed" in [node].'
        return warning("code", "any code that the coordinator sends is run", remedy)
    if node.accept_code == "installed":
        return good("code", "only the code that is installed here is run")
    return good("code", f"only {len(node.accept_code)} bundle(s) named by digest are run")


def check_data(site: SiteSpec) -> Finding:
    """Look whether the folder of images is there."""
    if site.layout == "synthetic":
        return good("data", "synthetic images, drawn by the computer")
    path = Path(site.path)
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        remedy = "Correct 'path' in [[site]]; in a container, mount the folder at /data."
        return bad("data", f"{path} is no folder that can be read", remedy)
    return good("data", f"{path} can be read")


def check_disk(node: NodeSpec) -> Finding:
    """Look at the room where state and prepared images go."""
    path = Path(node.state_dir)
    existing = next(p for p in [path, *path.parents] if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = "Give 'state-dir' a folder that belongs to the user who runs this."
        return bad("disk", f"{existing} cannot be written", remedy)
    free = shutil.disk_usage(existing).free
    detail = f"{free / GIB:.1f} GiB free at {existing}"
    remedy = "Free some room, or move 'state-dir' to another disk."
    if free < DISK[0]:
        return bad("disk", detail, remedy)
    return warning("disk", detail, remedy) if free < DISK[1] else good("disk", detail)


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Look at the memory that is left for training."""
    available = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    if available is None:
        return skipped("memory", "this system does not tell")
    detail = f"{available / GIB:.1f} GiB available"
    remedy = "Close other programs, or ask for a smaller batch-size or patch-size."
    if available < MEMORY[0]:
        return bad("memory", detail, remedy)
    return warning("memory", detail, remedy) if available < MEMORY[1] else good("memory", detail)


def check_gpu() -> Finding:
    """Look whether torch can use a GPU, and whether there is one that it cannot."""
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return good("gpu", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        remedy = (
            "Install a CUDA build of torch and a fitting driver; in a container use the gpu "
            "profile (COMPOSE_PROFILES=gpu)."
        )
        return warning("gpu", f"there is one, but torch {torch.__version__} cannot use it", remedy)
    return good("gpu", "none; training runs on the CPU")


def check_port(node: NodeSpec) -> Finding:
    """Look whether the local port is free, or in use by this very node."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", node.port))
        except OSError:
            if healthy(f"http://127.0.0.1:{node.port}/health"):
                return good("local port", f"{node.port}: a node runs here already")
            remedy = "Set another 'port' in [node]."
            return bad("local port", f"{node.port} is in use by another program", remedy)
    return good("local port", f"{node.port} is free")


def check_versions(site_file: Path) -> Finding:
    """Compare with the versions that the coordinator wrote beside the site file."""
    from fedssl.deploy.versions import VERSIONS, this_machine

    ours = this_machine()
    try:
        theirs = json.loads(site_file.with_name(VERSIONS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        have = f"fedssl {ours['fedssl']}, torch {ours['torch']}, flwr {ours['flwr']}"
        return skipped("versions", f"{have}; no {VERSIONS} of the coordinator lies beside the file")
    except (OSError, ValueError) as error:
        return bad("versions", f"{VERSIONS} cannot be read: {error}", "Ask for the kit again.")
    return _compared(ours, theirs)


def _compared(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Finding:
    differ = {k: (ours.get(k, "none"), v) for k, v in theirs.items() if ours.get(k) != v}
    told = "; ".join(f"{k}: here {a[:12]}, coordinator {b[:12]}" for k, (a, b) in differ.items())
    if "code" in differ or "fedssl" in differ:
        remedy = "Install the coordinator's version of fedssl, or take its image."
        return bad("versions", told, remedy)
    if differ:
        remedy = "Results may differ in the last digits; take the coordinator's image to be equal."
        return warning("versions", told, remedy)
    return good(
        "versions", f"as at the coordinator: fedssl {ours['fedssl']}, torch {ours['torch']}"
    )
