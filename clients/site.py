"""From a Flower context to a `Site`: the only place that knows simulation from deployment.

In simulation the node's partition is the position of a site in the federation file. In deployment
the site's own operator starts the SuperNode with `site-file` and `state-dir`; nothing that the
coordinator sends decides what is read or where anything is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flwr.app import Context, Error, Message

from fedssl.errors import ConfigError, FederationError

if TYPE_CHECKING:
    from fedssl.config import RunConfig, Scalar
    from fedssl.federation import SiteSpec
    from fedssl.site import Site
    from fedssl.types import Task

__all__ = ["Place", "answer", "find_place"]

log = logging.getLogger("flwr")

CLIENT_APP_RAISED: Final = 2
"""Flower's code for an exception in a ClientApp."""

SITES_KEPT: Final = 8
"""Sites with prepared data that one process keeps; a simulation has more, but not per process."""

Items = tuple[tuple[str, "Scalar"], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node finds its site.

    Args:
        spec: data and role.
        task: what is segmented.
        run: configuration; in deployment without anything that names a path at the site.
        state: the site's own directory.
    """

    spec: SiteSpec
    task: Task
    run: RunConfig
    state: Path


def answer(
    message: Message,
    context: Context,
    *,
    role: str | None = None,
    checks: Sequence[Callable[[Site], None]] = (),
) -> Message:
    """Let the node's site answer a message; a failure becomes an error reply.

    Args:
        message: a packed `Download`.
        context: Flower's view of node and run.
        role: the role that the message is meant for; None: any.
        checks: what has to hold at the site before it trains.
    """
    import torch

    from fedssl.wire import pack_upload, unpack_download

    try:
        place = _place(*_key(context))
        # Ray and Flower set OMP_NUM_THREADS per process; results depend on the number of threads.
        torch.set_num_threads(place.run.threads)
        if role is not None and place.spec.role != role:
            raise FederationError(
                f"Site {place.spec.name!r} is {place.spec.role} and refuses the message "
                f"{message.metadata.message_type!r}."
            )
        site = _site(*_key(context))
        for check in checks:
            check(site)
        upload = site.answer(unpack_download(message.content))
        return Message(pack_upload(upload, place.run.transfer), reply_to=message)
    except Exception as error:
        return _failed(error, message, context)


def find_place(
    node_config: Mapping[str, Scalar], run_config: Mapping[str, Scalar], run_id: int
) -> Place:
    """Return the site of a node.

    Args:
        node_config: `partition-id` and `num-partitions` in simulation, `site-file` and `state-dir`
            in deployment.
        run_config: flat keys of the run.
        run_id: Flower's number of the run.

    Raises:
        ConfigError: a key of the node or of the run is missing or wrong.
        FederationError: the number of simulated nodes is not the number of sites.
    """
    from fedssl.methods import load_config

    run = load_config(run_config)
    if "partition-id" in node_config:
        return _simulated(node_config, run, run_id)
    return _deployed(node_config, run)


def _simulated(node_config: Mapping[str, Scalar], run: RunConfig, run_id: int) -> Place:
    from fedssl.federation import load_federation
    from fedssl.placement import require_absolute_paths, require_nodes, run_folder

    require_absolute_paths(run)
    federation = load_federation(run)
    require_nodes(federation, int(node_config["num-partitions"]))
    spec = federation.sites[int(node_config["partition-id"])]
    return Place(spec, federation.task, run, run_folder(run, run_id) / "sites" / spec.name)


def _deployed(node_config: Mapping[str, Scalar], run: RunConfig) -> Place:
    from fedssl.federation import in_mode, load_site_file

    missing = [key for key in ("site-file", "state-dir") if not node_config.get(key)]
    if missing:
        raise ConfigError(
            f"The SuperNode was started without {' and '.join(missing)}. Start it with "
            '--node-config \'site-file="/path/to/site.toml" state-dir="/path/to/state"\'.'
        )
    state = Path(str(node_config["state-dir"])).resolve()
    task, spec = load_site_file(Path(str(node_config["site-file"])).resolve())
    own = {"data_root": "", "out": "", "cache_dir": str(state / "cache")}
    return Place(spec, in_mode(task, run.mode), run.model_copy(update=own), state)


def _key(context: Context) -> tuple[Items, Items, int]:
    node, run = context.node_config, context.run_config
    return tuple(sorted(node.items())), tuple(sorted(run.items())), context.run_id


@lru_cache(maxsize=64)
def _place(node_config: Items, run_config: Items, run_id: int) -> Place:
    return find_place(dict(node_config), dict(run_config), run_id)


@lru_cache(maxsize=SITES_KEPT)
def _site(node_config: Items, run_config: Items, run_id: int) -> Site:
    from fedssl.site import Site

    place = _place(node_config, run_config, run_id)
    return Site(place.spec, place.task, place.run, place.state)


def _failed(error: Exception, message: Message, context: Context) -> Message:
    from clients.failure import public_reason

    simulated = "partition-id" in context.node_config
    log.error("%s failed at this site.", message.metadata.message_type, exc_info=error)
    reason = f"{type(error).__name__}: {error}" if simulated else public_reason(error)
    return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)
