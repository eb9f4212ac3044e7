"""What happens to a push when the SuperLink refuses an object that it may have stored already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flwr.app import ConfigRecord
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable import inflatable_protobuf_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, push_objects
from flwr.superlink.grid import http_grid

from server.pushing import accept_repeated_objects


class Store:
    """A SuperLink's end of a push: what it has stored is not pending and refused."""

    def __init__(self, *stored: str) -> None:
        self.stored = set(stored)

    def push(self, request: PushObjectRequest) -> PushObjectResponse:
        new = request.object_id not in self.stored
        self.stored.add(request.object_id)
        return PushObjectResponse(stored=new)


@pytest.fixture(autouse=True)
def flowers_own() -> Iterator[None]:
    # Another test of this process may have started a ServerApp, which changes it for good.
    before = http_grid.make_push_object_fn_protobuf
    http_grid.make_push_object_fn_protobuf = inflatable_protobuf_utils.make_push_object_fn_protobuf
    yield
    http_grid.make_push_object_fn_protobuf = before


def send(store: Store) -> dict[str, ConfigRecord]:
    records = {r.object_id: r for r in (ConfigRecord({"n": n}) for n in range(4))}
    push = http_grid.make_push_object_fn_protobuf(
        push_object_protobuf=store.push, node=Node(node_id=1), run_id=7, session_id="s"
    )
    push_objects(dict(records), push, object_ids_to_push=set(records))
    return records


def first_object() -> str:
    return ConfigRecord({"n": 0}).object_id


def test_flower_gives_a_push_up_when_an_object_was_stored_before() -> None:
    # Should Flower change this, server/pushing.py can go.
    with pytest.raises(ObjectPushError):
        send(Store(first_object()))


def test_all_other_objects_arrive_when_one_was_stored_before() -> None:
    accept_repeated_objects()
    accept_repeated_objects()
    store = Store(first_object())
    assert set(send(store)) == store.stored
