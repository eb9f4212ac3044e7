"""Sites come late, leave and come back; below the quorum the run waits."""

from __future__ import annotations

import json
import logging
from collections.abc import Set
from dataclasses import replace
from pathlib import Path

import pytest
from comings import Comings
from numbered import EVERYONE, config, digest, numbers, replies, through, weight

from fedssl.config import Scalar
from fedssl.errors import FederationError
from fedssl.types import Role, Upload


def test_a_site_that_comes_late_takes_part_from_the_next_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, early = config(min_unlabeled=0), EVERYONE - {"west"}
    exchange = Comings(numbers(run), [early, early, EVERYONE])
    with caplog.at_level(logging.INFO, "fedssl"):
        through(exchange, run, tmp_path)
    assert replies(exchange) == [[0, 1, 2], [0, 1, 2], [1, 2]]
    assert "Site west joins in round 2, as unlabeled." in caplog.text
    assert weight(tmp_path) == pytest.approx((2 + 4 + 8) / 3)
    results = json.loads((tmp_path / "results.json").read_text())
    assert sorted(results["sites"]) == sorted(EVERYONE)


def test_a_site_that_leaves_is_logged_once_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, left = config(rounds=4), EVERYONE - {"east"}
    exchange = Comings(numbers(run), [EVERYONE, EVERYONE, left, left, EVERYONE])
    with caplog.at_level(logging.INFO, "fedssl"):
        through(exchange, run, tmp_path)
    assert replies(exchange)[0] == [0, 3]
    assert [m for m in caplog.messages if "east" in m] == [
        "Round 2, stage 'train' goes on without east.",
        "Round 4, stage 'train': east takes part again.",
    ]


def test_it_is_the_same_whether_a_site_comes_late_or_was_away_from_the_start(tmp_path: Path):
    run, early = config(min_unlabeled=0, rounds=4), EVERYONE - {"west"}
    late = Comings(numbers(run), [early, early, early, EVERYONE])
    away = Comings(numbers(run), [EVERYONE, early, early, EVERYONE])
    through(late, run, tmp_path / "late")
    through(away, run, tmp_path / "away")
    assert replies(late) == replies(away)
    assert digest(tmp_path / "late") == digest(tmp_path / "away")


def test_a_network_on_which_nobody_is_missing_changes_nothing(tmp_path: Path):
    run = config()
    through(Comings(numbers(run), [EVERYONE]), run, tmp_path / "open")
    through(Comings(numbers(run), [EVERYONE], open=False), run, tmp_path / "closed")
    assert digest(tmp_path / "open") == digest(tmp_path / "closed")


def test_a_rule_keeps_its_state_when_a_site_joins(tmp_path: Path):
    """FedAdam remembers two moments: without them the last round would be a first step again."""
    keys: dict[str, Scalar] = {"fedavg.server-optimizer": "adam"}
    run = config(method="fedavg", rounds=4, **keys)
    early = EVERYONE - {"north"}
    through(Comings(numbers(run), [early, early, early, EVERYONE]), run, tmp_path / "late")
    through(Comings(numbers(run), [EVERYONE, early, early, EVERYONE]), run, tmp_path / "away")
    assert digest(tmp_path / "late") == digest(tmp_path / "away")


def test_a_site_that_comes_back_with_another_role_is_kept_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, left = config(), EVERYONE - {"east"}
    sites = numbers(run)

    def turn(upload: Upload) -> Upload:
        if upload.site == "east":
            sites["east"].role = Role.UNLABELED
        return upload

    exchange = Comings(sites, [EVERYONE, EVERYONE, left, EVERYONE], change=turn)
    through(exchange, run, tmp_path)
    assert "Site 'east' came back as unlabeled; in this run it is labeled." in caplog.text
    assert replies(exchange)[0] == [0]


def test_below_the_quorum_a_stage_waits_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, left = config(min_labeled=2), EVERYONE - {"north"}
    through(Comings(numbers(run), [EVERYONE]), run, tmp_path / "undisturbed")
    exchange = Comings(numbers(run), [EVERYONE, EVERYONE, left, left, EVERYONE])
    through(exchange, run, tmp_path / "run")
    assert exchange.waited == [("north",)]
    assert "Round 2, stage 'train': 1 of 2 labeled sites gave a usable reply" in caplog.text
    assert replies(exchange) == [[0, 1, 2]] * 3
    assert digest(tmp_path / "run") == digest(tmp_path / "undisturbed")


@pytest.mark.parametrize("round_", [1, 2])
def test_a_labeled_site_that_stays_away_ends_the_run_with_a_checkpoint(round_: int, tmp_path: Path):
    run, left = config(min_labeled=2), EVERYONE - {"north"}
    gone: list[Set[str]] = [EVERYONE] * round_ + [left]
    message = (
        rf"Round {round_}, stage 'train': 1 of 2 labeled sites .* Missing: north\..*"
        rf"The state before round {round_} is saved; --resume goes on from there"
    )
    with pytest.raises(FederationError, match=message):
        through(Comings(numbers(run), gone), run, tmp_path / "run")
    again = run.model_copy(update={"resume": True})
    exchange = Comings(numbers(run), [EVERYONE])
    through(exchange, again, tmp_path / "run")
    assert replies(exchange)[0] == list(range(round_ - 1, 3))
    through(Comings(numbers(run), [EVERYONE]), run, tmp_path / "undisturbed")
    assert digest(tmp_path / "run") == digest(tmp_path / "undisturbed")


def test_a_refused_site_is_not_waited_for(tmp_path: Path):
    def spoiled(upload: Upload) -> Upload:
        return replace(upload, metrics={"loss": float("nan")}) if upload.site == "north" else upload

    run = config(min_labeled=2)
    exchange = Comings(numbers(run), [EVERYONE], change=spoiled)
    with pytest.raises(FederationError, match="metric 'loss' is nan"):
        through(exchange, run, tmp_path)
    assert exchange.waited == []


def test_the_run_begins_when_enough_sites_of_each_role_are_there(tmp_path: Path):
    run = config(min_labeled=2)
    exchange = Comings(numbers(run), [{"north"}, {"north", "west"}, EVERYONE])
    through(exchange, run, tmp_path)
    assert replies(exchange) == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("there", "keys", "lacking"),
    [
        ({"north"}, {}, "0 unlabeled sites, but min-unlabeled = 1"),
        ({"west"}, {}, "0 labeled or mixed sites, but min-labeled = 1"),
        (EVERYONE, {"min_labeled": 3}, "2 labeled or mixed sites, but min-labeled = 3"),
        (set(), {}, "0 labeled or mixed sites"),
    ],
)
def test_a_run_that_lacks_sites_gives_up_after_the_timeout_and_leaves_no_folder(
    there: Set[str], keys: dict[str, Scalar], lacking: str, tmp_path: Path
):
    run = config(round_timeout=0.05, **keys)
    with pytest.raises(FederationError) as raised:
        through(Comings(numbers(run), [there]), run, tmp_path / "run")
    assert lacking in str(raised.value)
    assert f"Sites that answered: {sorted(there)}." in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_an_upload_of_an_earlier_round_is_ignored_by_its_stamp(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    kept: list[Upload] = []

    def late(upload: Upload) -> Upload:
        """West's reply of the first round arrives in the second."""
        if upload.site != "west" or upload.round > 1:
            return upload
        kept.append(upload)
        return kept[0]

    run = config(min_unlabeled=0)
    rounds = through(Comings(numbers(run), [EVERYONE], change=late), run, tmp_path)
    assert [r["rule"] for r in rounds] == [{}] * 3
    text = "Round 2, stage 'train': ignored an upload of site west that belongs to round 1"
    assert text in caplog.text
    assert "Round 2, stage 'train' goes on without west." in caplog.text
