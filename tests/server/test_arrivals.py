"""Sites that come, come back, and are not who they say they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import pytest
from exchanges import PAIR, downloads, exchange, failing, site
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from in_process_grid import InProcessGrid

import server.arrivals
from fedssl.types import Role


def test_a_site_that_comes_back_as_another_node_is_found(caplog: pytest.LogCaptureFixture) -> None:
    link, grid = exchange({1: site("a"), 2: site("b", Role.UNLABELED)})
    link.describe("r")
    grid.nodes = {1: site("a"), 7: site("b", Role.UNLABELED)}
    with caplog.at_level(logging.INFO):
        assert [u.site for u in link.describe("r")] == ["b"]
    assert {u.site for u in link.send(downloads("a", "b"), PAIR)} == {"a", "b"}
    assert "Site b is back as node 7." in caplog.messages


def test_a_site_is_described_once_and_again_when_it_was_away() -> None:
    link, grid = exchange({1: site("a"), 2: site("b", Role.UNLABELED)})
    assert [u.site for u in link.describe("r")] == ["b", "a"]
    assert link.describe("r") == []
    west = grid.nodes.pop(2)
    assert link.describe("r") == []
    grid.nodes[2] = west
    assert [u.site for u in link.describe("r")] == ["b"]


def test_a_slow_description_is_not_waited_for() -> None:
    ready: list[bool] = []

    class Slow(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return super().pull_messages(message_ids) if ready else []

    link, _ = exchange({1: site("a")}, Slow)
    assert (link.describe("r"), link.asking) == ([], True)
    ready.append(True)
    assert ([u.site for u in link.describe("r")], link.asking) == (["a"], False)


def test_nothing_is_pulled_where_nothing_was_asked() -> None:
    pulled: list[list[str]] = []

    class Noting(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            pulled.append(list(message_ids))
            return super().pull_messages(pulled[-1])

    link, _ = exchange({1: site("a")}, Noting)
    link.describe("r")
    link.describe("r")
    assert [len(ids) for ids in pulled] == [1]


def test_a_name_that_is_connected_is_not_given_to_a_second_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link, grid = exchange({1: site("a")})
    link.describe("r")
    grid.nodes[2] = site("a")
    assert link.describe("r") == []
    assert caplog.messages == [
        "Node 2 cannot take part: it says that it is site 'a', which is connected as node 1."
    ]
    link.send(downloads("a"), PAIR)
    assert grid.sent[-1].metadata.dst_node_id == 1


def test_a_node_whose_key_is_registered_for_another_site_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Registered(InProcessGrid):
        def get_nodes(self) -> list[NodeInfo]:
            names = {1: "a", 2: "b", 3: None}
            return [NodeInfo(node_id=n, name=names[n]) for n in self.nodes]

    nodes = {1: site("a"), 2: site("c"), 3: site("d")}
    link, _ = exchange(nodes, Registered)
    assert sorted(u.site for u in link.describe("r")) == ["a", "d"]
    assert "Node 2 cannot take part: it says that it is site 'c', but its key is registered" in (
        caplog.text
    )
    assert "for 'b'" in caplog.text


def test_waiting_ends_when_the_site_is_back() -> None:
    link, grid = exchange({1: site("a")})
    link.describe("r")
    north = grid.nodes.pop(1)
    assert link.send(downloads("a"), PAIR) == []
    assert not link.wait(["a"], 0.3)
    grid.nodes[1] = north
    assert link.wait(["a"], 5.0)
    assert [u.site for u in link.send(downloads("a"), PAIR)] == ["a"]


def test_a_site_that_failed_is_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = failing("a", Role.LABELED, lambda m: Message(Error(2, "no"), reply_to=m))
    link, _ = exchange({1: broken})
    link.describe("r")
    assert link.send(downloads("a"), PAIR) == []
    assert not link.wait(["a"], 0.3)
    monkeypatch.setattr(server.arrivals, "ASK_AGAIN", 0.1)
    assert link.wait(["a"], 5.0)


def test_a_node_that_failed_to_describe_itself_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Message] = []

    def second_time(message: Message) -> Message | None:
        asked.append(message)
        ready = len(asked) > 1
        return site("a")(message) if ready else Message(Error(2, "not yet"), reply_to=message)

    link, _ = exchange({9: second_time})
    monkeypatch.setattr(server.arrivals, "ASK_AGAIN", 0.2)
    assert link.describe("r") == link.describe("r") == []
    assert len(asked) == 1
    time.sleep(0.3)
    assert [u.site for u in link.describe("r")] == ["a"]
    assert caplog.messages == ["Node 9 cannot take part: not yet"]
