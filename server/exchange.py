"""How downloads reach Flower nodes and uploads come back; every missing reply is accounted for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fedssl.config import RunConfig
from fedssl.errors import FederationError, UploadError
from fedssl.federation import load_federation
from fedssl.methods import METHODS
from fedssl.placement import require_nodes
from fedssl.types import Download, Role, SiteInfo, Upload
from fedssl.wire import pack_download, unpack_upload

if TYPE_CHECKING:
    from server.strategy import FederationStrategy

__all__ = ["Envelope", "GridExchange"]

log = logging.getLogger("flwr")

POLL: Final = 0.2
"""Seconds between looks for replies."""

SETTLE: Final = 1.0
"""Seconds without a new node after which a simulation has all of its nodes."""

START: Final = 120.0
"""Seconds that a simulation may take to bring up its nodes."""

RETURN: Final = 60.0
"""Seconds that a stage waits for an unknown node to say whether it is a site that moved."""

ASK_AGAIN: Final = 30.0
"""Seconds after which a node that could not describe itself is asked again."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A download with its address.

    Args:
        download: what is sent.
        node: Flower's id of the site's node.
        message_type: `train.<role>`, `evaluate` or `query.describe`.
        ttl: seconds after which message and reply are void.
    """

    download: Download
    node: int
    message_type: str
    ttl: float

    def message(self, content: RecordDict) -> Message:
        """Return the packed download as a Flower message, grouped by round and stage."""
        group = f"{self.download.round}.{self.download.stage}"
        return Message(content, self.node, self.message_type, ttl=self.ttl, group_id=group)


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
        self._nodes: dict[str, int] = {}

    def describe(self, run: str) -> Sequence[Upload]:
        """Return one upload per site.

        In simulation there are as many nodes as sites, and each has to answer. In deployment this
        waits until the connected nodes have answered and enough sites of each role are there.

        Raises:
            FederationError: the number of simulated nodes is wrong, a simulated site cannot be
                opened, or too few sites have come within `round-timeout`.
        """
        found = self._all_simulated(run) if self.engine == "ray" else self._enough_deployed(run)
        self._nodes = {upload.site: node for node, upload in found.items()}
        return list(found.values())

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        """Deliver the downloads of one stage and return the uploads that came; see `Exchange`."""
        if not downloads:
            return []
        first, strategy, timeout = downloads[0], self._strategy, self._run.round_timeout
        if self.engine == "deployment":
            self._follow_moved(first.run)
        strategy.envelopes = [
            Envelope(d, self._nodes[d.site], _message_type(d, roster), timeout) for d in downloads
        ]
        weights = pack_download(first, self._run.transfer).array_records["weights"]
        evaluates = first.stage == "evaluate"
        configure = strategy.configure_evaluate if evaluates else strategy.configure_train
        aggregate = strategy.aggregate_evaluate if evaluates else strategy.aggregate_train
        server_round = first.round + 1
        messages = configure(server_round, weights, ConfigRecord(), self._grid)
        replies, failures = self._deliver(messages, timeout)
        for site, node in self._nodes.items():
            if node in failures:
                log.error(
                    "Round %d, %s, site %s: %s", server_round, first.stage, site, failures[node]
                )
        aggregate(server_round, replies)
        return strategy.uploads

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
            if identifier is None:
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

    def _ask(
        self, run: str, nodes: Iterable[int], timeout: float
    ) -> tuple[dict[int, Upload], dict[int, str]]:
        """Return the describe replies by node, and the reason per node without one."""
        query = Download(run, 0, "describe", "")
        envelopes = [Envelope(query, node, "query.describe", timeout) for node in nodes]
        messages = (e.message(pack_download(query)) for e in envelopes)
        replies, failures = self._deliver(messages, timeout)
        uploads: dict[int, Upload] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                uploads[node] = unpack_upload(reply.content, f"node {node}")
            except UploadError as error:
                failures[node] = str(error)
        return uploads, failures

    def _all_simulated(self, run: str) -> dict[int, Upload]:
        nodes = self._settled_nodes()
        require_nodes(load_federation(self._run), len(nodes))
        uploads, failures = self._ask(run, nodes, self._run.round_timeout)
        if failures:
            raise FederationError("\n".join(sorted(set(failures.values()))))
        return uploads

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

    def _enough_deployed(self, run: str) -> dict[int, Upload]:
        deadline = time.monotonic() + self._run.round_timeout
        answered: dict[int, Upload] = {}
        retry: dict[int, float] = {}
        told = ""
        while (left := deadline - time.monotonic()) > 0:
            now = time.monotonic()
            connected = [n for n in self._grid.get_node_ids() if n not in answered]
            ask = [n for n in connected if retry.get(n, 0.0) <= now]
            if not ask and not self._lacking(answered):
                return answered
            uploads, failures = self._ask(run, ask, left)
            answered |= uploads
            for node, reason in failures.items():
                log.error("Node %d cannot take part: %s", node, reason)
                retry[node] = time.monotonic() + ASK_AGAIN
            if (lacking := self._lacking(answered)) != told:
                log.info("Waiting for SuperNodes: there are %s.", lacking or "enough sites")
                told = lacking
            time.sleep(POLL)
        raise FederationError(
            f"After {self._run.round_timeout:.0f} s (round-timeout) there are "
            f"{self._lacking(answered)}. Sites that answered: "
            f"{sorted(u.site for u in answered.values())}. Start the missing SuperNodes, or lower "
            "min-labeled or min-unlabeled."
        )

    def _lacking(self, answered: Mapping[int, Upload]) -> str:
        """Return which role is short of sites, or '' when enough of each are there."""
        roles = [upload.role for upload in answered.values()]
        unlabeled = roles.count(Role.UNLABELED)
        labeled = len(roles) - unlabeled
        if labeled < max(1, self._run.min_labeled):
            return f"{labeled} labeled sites, min-labeled = {self._run.min_labeled}"
        trains = METHODS[self._run.method].unlabeled is not None
        if trains and unlabeled < self._run.min_unlabeled:
            return f"{unlabeled} unlabeled sites, min-unlabeled = {self._run.min_unlabeled}"
        return ""

    def _follow_moved(self, run: str) -> None:
        """Find sites whose node is gone under another node: a restart may change its id."""
        present = set(self._grid.get_node_ids())
        gone = {site for site, node in self._nodes.items() if node not in present}
        strangers = present - set(self._nodes.values())
        if not gone or not strangers:
            return
        found, _ = self._ask(run, strangers, min(self._run.round_timeout, RETURN))
        for node, upload in found.items():
            if upload.site in gone:
                log.info("Site %s is back as node %d.", upload.site, node)
                self._nodes[upload.site] = node


def _message_type(download: Download, roster: Mapping[str, SiteInfo]) -> str:
    if download.stage == "evaluate":
        return "evaluate"
    return f"train.{roster[download.site].role}"
