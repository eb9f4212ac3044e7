"""How downloads reach Flower nodes and uploads come back; every missing reply is accounted for."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fedssl.config import RunConfig
from fedssl.errors import FederationError, UploadError
from fedssl.federation import load_federation
from fedssl.placement import require_nodes
from fedssl.types import Download, SiteInfo, Upload
from fedssl.wire import pack_download, unpack_upload
from server import arrivals
from server.arrivals import Arrivals
from server.envelope import POLL, Envelope, describe_query

if TYPE_CHECKING:
    from server.strategy import FederationStrategy

__all__ = ["GridExchange"]

log = logging.getLogger("flwr")

SETTLE: Final = 1.0
"""Seconds without a new node after which a simulation has all of its nodes."""

START: Final = 120.0
"""Seconds that a simulation may take to bring up its nodes."""


class GridExchange:
    """An `Exchange` over a Flower grid.

    Which node is which site is learned from the `describe` replies. Flower reports a lost node in
    the name of the SuperLink, late, or not at all; so whoever was sent to and has not replied
    within `round-timeout` counts as missing.

    Args:
        grid: Flower's way to the nodes.
        run: the run's configuration.
        strategy: makes messages of envelopes, and uploads of replies.
    """

    def __init__(self, grid: Grid, run: RunConfig, strategy: FederationStrategy) -> None:
        self.engine = "ray" if isinstance(grid, InMemoryGrid) else "deployment"
        self._grid, self._run, self._strategy = grid, run, strategy
        self._arrivals = Arrivals(grid, run.round_timeout)
        self._came: list[Upload] = []
        self._failed: dict[str, float] = {}
        self._token = ""

    @property
    def open(self) -> bool:
        """Whether sites may come later; simulated ones are there from the start."""
        return self.engine == "deployment"

    @property
    def asking(self) -> bool:
        """Whether a node that is connected has yet to describe itself."""
        return self._arrivals.asking

    def describe(self, run: str) -> Sequence[Upload]:
        """Return one upload per site that has come, or come back, since the last call.

        In simulation there are as many nodes as sites, and each has to answer. In deployment
        nothing is waited for.

        Raises:
            FederationError: the number of simulated nodes is wrong, or a simulated site cannot be
                opened.
        """
        self._token = run
        if not self.open:
            return [] if self._nodes else self._all_simulated(run)
        self._look()
        came, self._came = self._came, []
        return came

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        """Deliver the downloads of one stage and return the uploads that came; see `Exchange`."""
        reached = self._reached(downloads)
        if not reached:
            return []
        first, strategy, timeout = reached[0], self._strategy, self._run.round_timeout
        strategy.envelopes = [
            Envelope(d, self._nodes[d.site], _message_type(d, roster), timeout) for d in reached
        ]
        weights = pack_download(first, self._run.transfer).array_records["weights"]
        evaluates = first.stage == "evaluate"
        configure = strategy.configure_evaluate if evaluates else strategy.configure_train
        aggregate = strategy.aggregate_evaluate if evaluates else strategy.aggregate_train
        server_round = first.round + 1
        messages = configure(server_round, weights, ConfigRecord(), self._grid)
        replies, failures = self._deliver(messages, timeout)
        for download in reached:
            node = self._nodes[download.site]
            if node in failures:
                self._fail(download, failures[node])
        aggregate(server_round, replies)
        return strategy.uploads

    def wait(self, sites: Collection[str], seconds: float) -> bool:
        """Wait until one of these sites, which gave no reply, can be asked again.

        That is: it has described itself since, or it is connected and some time has passed.
        """
        deadline = time.monotonic() + seconds
        while self.open and time.monotonic() < deadline:
            if any(self._ready(site) for site in sites):
                return True
            time.sleep(POLL)
            self._look()
        return False

    @property
    def _nodes(self) -> dict[str, int]:
        return self._arrivals.nodes

    def _look(self) -> None:
        self._came += self._arrivals.look(self._token)

    def _reached(self, downloads: Sequence[Download]) -> list[Download]:
        """Return the downloads whose site is connected; a message to another would wait for it."""
        if not self.open:
            return list(downloads)
        self._look()
        for download in downloads:
            if not self._arrivals.connected(download.site):
                self._fail(download, "it is not connected.")
        return [d for d in downloads if self._arrivals.connected(d.site)]

    def _fail(self, download: Download, reason: str) -> None:
        where = (download.round + 1, download.stage, download.site)
        log.error("Round %d, %s, site %s: %s", *where, reason)
        self._failed[download.site] = time.monotonic()

    def _ready(self, site: str) -> bool:
        failed = self._failed.get(site, 0.0)
        if self._arrivals.heard_since(site, failed):
            return True
        rested = time.monotonic() - failed >= arrivals.ASK_AGAIN
        return rested and self._arrivals.connected(site)

    def _deliver(
        self, messages: Iterable[Message], timeout: float
    ) -> tuple[list[Message], dict[int, str]]:
        """Push messages and wait; return good replies, and the reason per node without one."""
        pending: dict[str, int] = {}
        failures: dict[int, str] = {}
        replies: list[Message] = []
        # One by one: a stage's messages need not fit into one request, or into memory at once.
        for message in messages:
            node = message.metadata.dst_node_id
            identifier = next(iter(self._grid.push_messages([message])), None)
            if not identifier:  # a SuperLink that refuses a message answers with an empty id
                failures[node] = "the message could not be handed to its node."
            else:
                pending[identifier] = node
        deadline = time.monotonic() + timeout
        while pending:
            for reply in self._grid.pull_messages(list(pending)):
                node = pending.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    failures[node] = reply.error.reason or f"error {reply.error.code}"
                else:
                    replies.append(reply)
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL if pending else 0)
        late = f"no reply within {timeout:.0f} s (round-timeout)."
        return replies, {**failures, **dict.fromkeys(pending.values(), late)}

    def _all_simulated(self, run: str) -> list[Upload]:
        nodes = self._settled_nodes()
        require_nodes(load_federation(self._run), len(nodes))
        timeout = self._run.round_timeout
        replies, failures = self._deliver((describe_query(run, n, timeout) for n in nodes), timeout)
        uploads: dict[int, Upload] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                uploads[node] = unpack_upload(reply.content, f"node {node}")
            except UploadError as error:
                failures[node] = str(error)
        if failures:
            raise FederationError("\n".join(sorted(set(failures.values()))))
        self._nodes.update({upload.site: node for node, upload in uploads.items()})
        return list(uploads.values())

    def _settled_nodes(self) -> list[int]:
        """Return the simulated nodes; they appear shortly after the ServerApp has started."""
        begun = changed = time.monotonic()
        nodes: list[int] = []
        while (now := time.monotonic()) - begun < START and (not nodes or now - changed < SETTLE):
            found = list(self._grid.get_node_ids())
            if len(found) != len(nodes):
                nodes, changed = found, now
            time.sleep(POLL)
        return nodes


def _message_type(download: Download, roster: Mapping[str, SiteInfo]) -> str:
    if download.stage == "evaluate":
        return "evaluate"
    return f"train.{roster[download.site].role}"
