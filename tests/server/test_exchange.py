"""Downloads find their sites, and every reply that does not come is accounted for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Error, Message
from in_process_grid import InProcessGrid, Node, lost

import server.exchange
from fedssl.config import RunConfig
from fedssl.errors import ConfigError, FederationError
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


def exchange(nodes: dict[int, Node], **keys: object) -> tuple[GridExchange, InProcessGrid]:
    grid = InProcessGrid(nodes)
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
    assert caplog.messages == [
        "Round 3, train, site b: the message could not be handed to its node."
    ]


def test_a_site_that_comes_back_as_another_node_is_found() -> None:
    link, grid = exchange({1: site("a"), 2: site("b", Role.UNLABELED)})
    link.describe("r")
    grid.nodes = {1: site("a"), 7: site("b", Role.UNLABELED)}
    assert {u.site for u in link.send(downloads("a", "b"), PAIR)} == {"a", "b"}


def test_describe_waits_until_enough_sites_of_each_role_are_there() -> None:
    nodes = {1: site("a")}

    class LateGrid(InProcessGrid):
        looks = 0

        def get_node_ids(self) -> list[int]:
            self.looks += 1
            if self.looks == 3:
                self.nodes[2] = site("b", Role.UNLABELED)
            return list(self.nodes)

    run = config(round_timeout=20.0)
    link = GridExchange(LateGrid(nodes), run, FederationStrategy(run, Path("unused")))
    assert {u.site for u in link.describe("r")} == {"a", "b"}


@pytest.mark.parametrize(
    ("keys", "present", "reason"),
    [
        ({}, {1: site("a")}, "0 unlabeled sites, min-unlabeled = 1"),
        ({}, {1: site("b", Role.UNLABELED)}, "0 labeled sites, min-labeled = 1"),
        ({"min_labeled": 2}, {1: site("a"), 2: site("b")}, "0 unlabeled sites"),
    ],
)
def test_describe_gives_up_and_names_what_is_lacking(
    keys: dict[str, object], present: dict[int, Node], reason: str
) -> None:
    link, _ = exchange(present, **{"round_timeout": 0.5, **keys})
    with pytest.raises(FederationError, match=rf"{reason}.*Sites that answered"):
        link.describe("r")


def test_a_method_that_does_not_train_unlabeled_sites_does_not_wait_for_them() -> None:
    link, _ = exchange({1: site("a")}, method="fedavg")
    assert [u.site for u in link.describe("r")] == ["a"]


def test_a_node_that_failed_to_describe_itself_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.exchange, "ASK_AGAIN", 0.1)
    asked: list[Message] = []

    def second_time(message: Message) -> Message | None:
        asked.append(message)
        ready = len(asked) > 1
        return site("a")(message) if ready else Message(Error(2, "not yet"), reply_to=message)

    link, _ = exchange({9: second_time}, min_unlabeled=0, round_timeout=20.0)
    with caplog.at_level(logging.ERROR):
        assert [u.site for u in link.describe("r")] == ["a"]
    assert caplog.messages == ["Node 9 cannot take part: not yet"]


def test_the_strategy_refuses_what_it_would_have_to_ignore() -> None:
    strategy = FederationStrategy(config(), Path("unused"))
    with pytest.raises(ConfigError, match="initial_arrays"):
        strategy.start(InProcessGrid({}), ArrayRecord(WEIGHTS))  # type: ignore[arg-type]
