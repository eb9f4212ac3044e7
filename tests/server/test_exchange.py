"""Downloads find their sites, and every reply that does not come is accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exchanges import PAIR, WEIGHTS, config, downloads, exchange, failing, roster, site
from flwr.app import ArrayRecord, Error, Message
from in_process_grid import InProcessGrid, lost

from fedssl.errors import ConfigError
from fedssl.types import Role
from server.strategy import FederationStrategy


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


def test_the_strategy_refuses_what_it_would_have_to_ignore() -> None:
    strategy = FederationStrategy(config(), Path("unused"))
    with pytest.raises(ConfigError, match="initial_arrays"):
        strategy.start(InProcessGrid({}), ArrayRecord(WEIGHTS))  # type: ignore[arg-type]  # a grid in all that is asked of it
