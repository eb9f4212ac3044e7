"""A download with its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flwr.app import Message, RecordDict

from fedssl.types import Download
from fedssl.wire import pack_download

__all__ = ["POLL", "Envelope", "describe_query"]

POLL: Final = 0.2
"""Seconds between looks for replies."""


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


def describe_query(run: str, node: int, ttl: float) -> Message:
    """Return the message that asks a node which site it is."""
    query = Download(run, 0, "describe", "")
    return Envelope(query, node, "query.describe", ttl).message(pack_download(query))
