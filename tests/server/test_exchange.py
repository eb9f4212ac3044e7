"""Downloads find their sites, and every reply that does not come is accounted for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message
from flwr.proto.node_pb2 import NodeInfo
from in_process_grid import InProcessGrid, Node, lost

import server.arrivals
from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.methods import load_config
from fedssl.types import Download, Role, SiteInfo, Upload
from fedssl.wire import pack_upload, unpack_download
from server.exchange import GridExchange
from server.strategy import FederationStrategy

WEIGHTS = {"w": torch.arange(3.0)}


def site(name: str, role: Role = Role.LABELED) -> Node:
    """Return a node that adds 1 to its weights."""

    def answer(message: Message) -> Message:
        download = unpack_download(message.content)
        weights = {k: v + 1 for k, v in download.weights.items()}
        upload = Upload(name, role, download.round, download.stage, 5, 5, weights)
        return Message(pack_upload(upload), reply_to=message)

    return answer


def failing(name: str, role: Role, reply: Callable[[Message], Message | None]) -> Node:
    """Return a node that describes itself, but answers everything else with `reply`."""
    healthy = site(name, role)

    def answer(message: Message) -> Message | None:
        described = message.metadata.message_type == "query.describe"
        return healthy(message) if described else reply(message)

    return answer


def config(**keys: object) -> RunConfig:
    return load_config(
        {
            "method": "denoise",
            "round-timeout": 1.5,
            **{k.replace("_", "-"): v for k, v in keys.items()},
        }
    )


def exchange(
    nodes: dict[int, Node], kind: type[InProcessGrid] = InProcessGrid, **keys: object
) -> tuple[GridExchange, InProcessGrid]:
    grid = kind(nodes)
    run = config(**keys)
    return GridExchange(grid, run, FederationStrategy(run, Path("unused"))), grid


def roster(*infos: tuple[str, Role]) -> dict[str, SiteInfo]:
    return {name: SiteInfo(name, role, 5, 5) for name, role in infos}


PAIR = roster(("a", Role.LABELED), ("b", Role.UNLABELED))


def downloads(*sites: str, stage: str = "train") -> list[Download]:
    return [Download("r", 2, stage, name, 4, dict(WEIGHTS), trains=("shared",)) for name in sites]


def test_downloads_reach_the_node_that_said_it_is_the_site() -> None:
    link, grid = exchange({11: site("b", Role.UNLABELED), 12: site("a")})
    described = link.describe("r")
    assert {(u.site, u.role) for u in described} == {("a", Role.LABELED), ("b", Role.UNLABELED)}
    uploads = link.send(downloads("a", "b"), PAIR)
    assert {u.site: u.weights["w"].tolist() for u in uploads} == {
        "a": [1.0, 2.0, 3.0],
        "b": [1.0, 2.0, 3.0],
    }
    trained = [(m.metadata.dst_node_id, m.metadata.message_type) for m in grid.sent[2:]]
    assert trained == [(12, "train.labeled"), (11, "train.unlabeled")]


def test_evaluation_has_its_own_message_type() -> None:
    link, grid = exchange({1: site("a")}, min_unlabeled=0)
    link.describe("r")
    link.send(downloads("a", stage="evaluate"), PAIR)
    assert grid.sent[-1].metadata.message_type == "evaluate"
    assert grid.sent[-1].metadata.group_id == "2.evaluate"
    assert grid.sent[-1].metadata.ttl == 1.5


def test_equal_weights_are_packed_once_and_others_by_themselves() -> None:
    link, grid = exchange({1: site("a"), 2: site("b", Role.UNLABELED), 3: site("c")})
    link.describe("r")
    first, second, other = downloads("a", "b", "c")
    other = replace(other, weights={"w": torch.zeros(3)})
    uploads = link.send([first, second, other], {**PAIR, **roster(("c", Role.LABELED))})
    a, b, c = (m.content.array_records["weights"] for m in grid.sent[-3:])
    assert a is b
    assert c is not a
    assert {u.site: u.weights["w"].tolist() for u in uploads}["c"] == [1.0, 1.0, 1.0]


def test_a_silent_site_is_missing_after_the_timeout(caplog: pytest.LogCaptureFixture) -> None:
    silent = failing("b", Role.UNLABELED, lambda message: None)
    link, _ = exchange({1: site("a"), 2: silent})
    link.describe("r")
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["a"]
    assert "Round 3, train, site b: no reply within 2 s (round-timeout)." in caplog.messages


def test_an_error_reply_is_logged_with_the_site_and_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = failing(
        "a", Role.LABELED, lambda m: Message(Error(2, "DataError: no masks"), reply_to=m)
    )
    link, _ = exchange({1: broken, 2: site("b", Role.UNLABELED)})
    link.describe("r")
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["b"]
    assert caplog.messages == ["Round 3, train, site a: DataError: no masks"]


def test_a_lost_node_is_named_although_flower_replies_in_the_superlinks_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link, _ = exchange({1: site("a"), 2: failing("b", Role.UNLABELED, lost)})
    link.describe("r")
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["a"]
    assert caplog.messages == ["Round 3, train, site b: Node unavailable"]


def test_a_node_that_speaks_for_another_site_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    link, _ = exchange({1: site("a"), 2: failing("b", Role.UNLABELED, site("a"))})
    link.describe("r")
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["a"]
    assert caplog.messages == ["Upload of site 'b' is refused: it says it is 'a'."]


def test_a_malformed_upload_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    def malformed(message: Message) -> Message:
        reply = site("b", Role.UNLABELED)(message)
        assert reply is not None
        del reply.content["metrics"]
        return reply

    link, _ = exchange({1: site("a"), 2: failing("b", Role.UNLABELED, malformed)})
    link.describe("r")
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["a"]
    assert "site 'b' is refused: missing records ['metrics']" in caplog.messages[0]


def test_a_node_that_cannot_be_reached_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    link, grid = exchange({1: site("a"), 2: site("b", Role.UNLABELED)})
    link.describe("r")
    del grid.nodes[2]
    assert [u.site for u in link.send(downloads("a", "b"), PAIR)] == ["a"]
    assert caplog.messages == ["Round 3, train, site b: it is not connected."]


@pytest.mark.parametrize("refusal", [[], [""]], ids=["in process", "by a SuperLink"])
def test_a_node_that_refuses_the_message_is_missing(
    caplog: pytest.LogCaptureFixture, refusal: list[str]
) -> None:
    class Full(InProcessGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            kept = [m for m in messages if m.metadata.message_type == "query.describe"]
            return super().push_messages(kept) or refusal

    link, _ = exchange({1: site("a")}, Full)
    link.describe("r")
    assert link.send(downloads("a"), PAIR) == []
    assert caplog.messages == [
        "Round 3, train, site a: the message could not be handed to its node."
    ]


def test_nothing_is_sent_where_nobody_is_connected() -> None:
    link, grid = exchange({1: site("a")})
    link.describe("r")
    grid.nodes.clear()
    assert link.send(downloads("a"), PAIR) == []
    assert link.send([], PAIR) == []


# --- who comes, goes, and comes back -------------------------------------------------------------


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


def test_the_strategy_refuses_what_it_would_have_to_ignore() -> None:
    strategy = FederationStrategy(config(), Path("unused"))
    with pytest.raises(ConfigError, match="initial_arrays"):
        strategy.start(InProcessGrid({}), ArrayRecord(WEIGHTS))  # type: ignore[arg-type]  # a grid in all that is asked of it
