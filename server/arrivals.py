"""Which nodes are there, and which sites they are: SuperNodes come, go, and come back."""

from __future__ import annotations

import logging
import time
from typing import Final

from flwr.app import Message
from flwr.serverapp import Grid

from fedssl.errors import UploadError
from fedssl.types import Upload
from fedssl.wire import unpack_upload
from server.envelope import describe_query

__all__ = ["Arrivals"]

log = logging.getLogger("flwr")

ASK_AGAIN: Final = 30.0
"""Seconds after which a node is asked again that could not describe itself or take part."""


class Arrivals:
    """Asks every node that appears which site it is, and never waits for the answer.

    Args:
        grid: Flower's way to the nodes.
        timeout: seconds that a node has for its description.
    """

    def __init__(self, grid: Grid, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self.nodes: dict[str, int] = {}
        self._present: set[int] = set()
        self._registered: dict[int, str] = {}
        self._heard: dict[int, float] = {}
        self._asked: dict[str, tuple[int, float]] = {}
        self._later: dict[int, float] = {}

    @property
    def asking(self) -> bool:
        """Whether a node that is connected has yet to describe itself."""
        return any(node in self._present for node, _ in self._asked.values())

    def connected(self, site: str) -> bool:
        """Whether the node of a site was there at the last look."""
        return self.nodes.get(site) in self._present

    def heard_since(self, site: str, moment: float) -> bool:
        """Whether a site has described itself since a moment, and is still there."""
        return self._heard.get(self.nodes.get(site, 0), -1.0) > moment

    def look(self, run: str) -> list[Upload]:
        """Return the description of each site that has come or come back since the last look."""
        self._see()
        self._ask(run)
        uploads = []
        # Without a question nothing is pulled: to Flower an empty list need not mean nothing.
        replies = self._grid.pull_messages(list(self._asked)) if self._asked else []
        for reply in list(replies):
            node, _ = self._asked.pop(reply.metadata.reply_to_message_id)
            upload = self._read(reply, node)
            if upload is not None and self._binds(upload, node):
                uploads.append(upload)
        return uploads

    def _see(self) -> None:
        """Forget who is gone: it is asked anew when it is back, for it may be another by then."""
        names = {node.node_id: node.name for node in self._grid.get_nodes()}
        self._present = set(names)
        self._registered |= names  # kept: who has gone by the time its reply is read keeps its name
        self._heard = {n: t for n, t in self._heard.items() if n in self._present}

    def _ask(self, run: str) -> None:
        now = time.monotonic()
        self._asked = {m: (n, t) for m, (n, t) in self._asked.items() if t + self._timeout > now}
        waiting = {node for node, _ in self._asked.values()}
        for node in sorted(self._present - self._heard.keys() - waiting):
            if self._later.get(node, 0.0) > now:
                continue
            message = describe_query(run, node, self._timeout)
            identifier = next(iter(self._grid.push_messages([message])), None)
            if identifier:
                self._asked[identifier] = (node, now)

    def _read(self, reply: Message, node: int) -> Upload | None:
        if reply.has_error():
            self._put_off(node, reply.error.reason or f"error {reply.error.code}")
            return None
        try:
            return unpack_upload(reply.content, f"node {node}")
        except UploadError as error:
            self._put_off(node, str(error))
            return None

    def _put_off(self, node: int, reason: str) -> None:
        log.error("Node %d cannot take part: %s", node, reason)
        self._later[node] = time.monotonic() + ASK_AGAIN

    def _binds(self, upload: Upload, node: int) -> bool:
        """Whether a node may be the site that it says it is; remembers it if so."""
        # Flower authenticates keys; the name that a key is registered under says whose it is.
        registered, other = self._registered.get(node, ""), self.nodes.get(upload.site, node)
        if registered and registered != upload.site:
            self._put_off(
                node,
                f"it says that it is site {upload.site!r}, but its key is registered for "
                f"{registered!r}. Names are bound to keys by `flwr supernode register --name`.",
            )
            return False
        if other != node and other in self._present:
            self._put_off(
                node,
                f"it says that it is site {upload.site!r}, which is connected as node {other}.",
            )
            return False
        if upload.site in self.nodes:
            log.info("Site %s is back as node %d.", upload.site, node)
        self.nodes[upload.site] = node
        self._heard[node] = time.monotonic()
        return True
