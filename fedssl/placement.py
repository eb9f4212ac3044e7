"""What has to fit between a run and the Flower federation that it is started in.

Under Flower the working directory is not the user's, and the number of nodes is chosen elsewhere
than the sites.
"""

from __future__ import annotations

from pathlib import Path

from fedssl.config import RunConfig
from fedssl.data.synthetic import SYNTHETIC
from fedssl.errors import ConfigError, FederationError
from fedssl.federation import Federation

__all__ = ["require_absolute_paths", "require_nodes", "run_folder"]


def require_absolute_paths(run: RunConfig) -> None:
    """Refuse relative paths.

    Raises:
        ConfigError: names every key that holds a relative path.
    """
    relative = {k: v for k, v in _paths(run).items() if v and not Path(v).is_absolute()}
    if relative:
        given = ", ".join(f"{key} = {value!r}" for key, value in relative.items())
        raise ConfigError(
            f"Relative path: {given}. Under 'flwr run' the working directory is the SuperLink's, "
            "not yours: give an absolute path, or use 'fedssl run', which makes paths absolute."
        )


def require_nodes(federation: Federation, nodes: int) -> None:
    """Refuse a simulation whose number of nodes is not the number of sites.

    Raises:
        FederationError: names both numbers and the option that makes them equal.
    """
    sites = len(federation.sites)
    if nodes != sites:
        raise FederationError(
            f"Flower simulates {nodes} nodes, but {federation.source!r} has {sites} sites; each "
            "site needs one node. Use 'fedssl run', or add to 'flwr run': "
            f'--federation-config "num-supernodes={sites} client-resources-num-cpus=1"'
        )


def run_folder(run: RunConfig, run_id: int) -> Path:
    """Return `out`, or a folder of its own under the home directory where `out` is empty.

    Coordinator and simulated sites call this in different processes and get the same folder.
    """
    return Path(run.out) if run.out else Path.home() / "fedssl-runs" / f"{run.method}-{run_id}"


def _paths(run: RunConfig) -> dict[str, str]:
    federation = "" if run.federation in SYNTHETIC else run.federation
    return {
        "federation": federation,
        "data-root": run.data_root,
        "out": run.out,
        "cache-dir": run.cache_dir,
    }
