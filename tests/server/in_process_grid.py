"""A Flower grid whose nodes live in this process; every message is serialised as on a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Node = Callable[[Message], Message | None]
"""What a node makes of a message; None: it never replies."""


class InProcessGrid(Grid):
    """Nodes answer when replies are asked for, the last one first.

    What raises `NotImplementedError` is abstract in Flower and never called by our server.
    """

    def __init__(self, nodes: dict[int, Node]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.nodes = nodes
        self.sent: list[Message] = []
        self._waiting: dict[str, Message] = {}
        self._numbers = count()

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = identifier = f"m{next(self._numbers)}"
            self.sent.append(message)
            if message.metadata.dst_node_id in self.nodes:
                self._waiting[identifier] = message
                identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for identifier in sorted(message_ids, reverse=True):
            message = self._waiting.pop(identifier, None)
            if message is None:
                continue
            reply = self.nodes[message.metadata.dst_node_id](travelled(message))
            if reply is not None:
                replies.append(travelled(reply))
        return replies


def travelled(message: Message) -> Message:
    """Replace a message's content by what the other side of a network would make of it."""
    if message.has_error():
        return message
    content = message.content
    contents = {key: part.deflate() for key, part in get_all_nested_objects(content).items()}
    restored = inflate_object_from_contents(content.object_id, contents)
    assert isinstance(restored, RecordDict)
    return Message(metadata=message.metadata, content=restored)  # type: ignore[call-overload]  # Flower's stubs know no metadata


def lost(message: Message) -> Message:
    """What Flower replies in the name of a node that is gone."""
    reply = Message(Error(5, "Node unavailable"), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = 1
    return reply
