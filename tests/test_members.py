"""Sites come late, leave and come back; who does not fit is kept out; the run goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comings import TASK, Comings, Number
from safetensors.torch import load_file
from tiny_federations import Silent

import fedssl.members
from fedssl.config import RunConfig, Scalar
from fedssl.coordinator import run_federation
from fedssl.errors import FederationError
from fedssl.methods import load_config
from fedssl.roster import common_task, misfit
from fedssl.site import versions
from fedssl.types import Download, Role, Upload

VALUES = {"east": 2.0, "north": 4.0, "west": 8.0}
EVERYONE = frozenset(VALUES)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedssl.members, "POLL", 0.0)


def config(**keys: Scalar) -> RunConfig:
    """Return a run of `mutual` from its first round on: the average of all sites' weights."""
    flat: dict[str, Scalar] = {"method": "mutual", "rounds": 3, "mutual.warmup-rounds": 0}
    flat |= {"model.width": 2, "model.depth": 1, "evaluate.every": 0, "round-timeout": 0.5}
    flat |= {key.replace("_", "-"): value for key, value in keys.items()}
    return load_config(flat)


def numbers(run: RunConfig, **changed: Any) -> dict[str, Number]:
    """Return sites north and east, which are labeled, and west, which is not."""
    sites = {}
    for name, value in VALUES.items():
        role = Role.UNLABELED if name == "west" else Role.LABELED
        sites[name] = replace(Number(name, role, run, value), **changed.get(name, {}))
    return sites


def through(exchange: Comings, run: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """Run to the end and return the rounds."""
    out = run_federation(run, exchange, folder, progress=Silent())
    return out.records()


def weight(folder: Path) -> float:
    """Return the number that all final weights are."""
    values = torch.cat([v.flatten() for v in load_file(folder / "model.safetensors").values()])
    assert values.unique().numel() == 1
    return float(values[0])


def took_part(rounds: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [sorted(r["sites"]) for r in rounds]


def replies(exchange: Comings) -> list[list[int]]:
    """Return the rounds that each site was asked to train in."""
    sites = exchange.sites.values()
    return [[d.round for d in s.seen if d.stage == "train"] for s in sites]  # type: ignore[attr-defined]


# --- coming late, leaving, coming back -----------------------------------------------------------


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


def digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["weights_sha256"])


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


# --- quorum --------------------------------------------------------------------------------------


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


# --- who does not fit ----------------------------------------------------------------------------

OTHER_CLASSES = replace(TASK, classes=("background", "cup"))


def told(site: Number) -> Upload:
    return site.answer(Download("r", 0, "describe", site.name))


def refusal(run: RunConfig, site: Number) -> str:
    return misfit(told(site), TASK, run, versions()["fedssl"])


def test_a_site_that_fits_is_not_refused_and_the_name_of_the_task_is_free():
    run = config()
    assert refusal(run, Number("a", Role.LABELED, run)) == ""
    assert refusal(run, Number("a", Role.LABELED, run, task=replace(TASK, name="eye"))) == ""


def test_whatever_differs_is_refused_with_both_values():
    run = config()
    site = Number("a", Role.LABELED, run)
    ours = versions()["fedssl"]
    older = json.dumps({**versions(), "fedssl": "0.0.9"})
    assert f"'a' runs fedssl 0.0.9, the coordinator {ours}." in refusal(
        run, replace(site, info={"versions": older})
    )
    assert "fingerprint 123, the coordinator has " in refusal(
        run, replace(site, info={"fingerprint": "123"})
    )
    found = refusal(run, replace(site, task=OTHER_CLASSES))
    assert "classes = ['background', 'cup'], the run ['background', 'disc']" in found
    found = refusal(run, replace(site, task=replace(TASK, mode="3d", channels=4)))
    assert "mode = 3d, the run 2d; channels = 4, the run 1." in found
    resized = replace(site, run=config(image_size="64"))
    found = refusal(run, resized)
    assert '"image_size": [64, 64]' in found
    assert 'the run by {"channels": 1, "image_size": null' in found


@pytest.mark.parametrize("task", ["", "[]", "{}", '{"classes": 3}', "nothing"])
def test_a_description_that_cannot_be_read_is_refused(task: str):
    run = config()
    assert "cannot be read" in refusal(run, Number("a", Role.LABELED, run, info={"task": task}))


def test_the_labeled_sites_decide_the_task():
    run = config()
    other = [told(Number(n, Role.UNLABELED, run, task=OTHER_CLASSES)) for n in "ab"]
    mine = told(Number("c", Role.LABELED, run))
    assert common_task([*other, mine]) == TASK
    assert common_task(other) == OTHER_CLASSES
    labeled = [told(Number(n, Role.LABELED, run, task=OTHER_CLASSES)) for n in "de"]
    assert common_task([mine, *labeled]) == OTHER_CLASSES
    assert common_task([mine, labeled[0]]) == TASK  # as many of each: the first by name
    with pytest.raises(FederationError, match="No site answered"):
        common_task([])


def test_a_site_with_other_classes_is_kept_out_and_the_others_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = config(min_unlabeled=0)
    sites = numbers(run, west={"task": OTHER_CLASSES})
    exchange = Comings(sites, [EVERYONE])
    through(exchange, run, tmp_path)
    assert replies(exchange) == [[0, 1, 2], [0, 1, 2], []]
    assert weight(tmp_path) == pytest.approx(3)
    assert "Refused: Site 'west' has classes = ['background', 'cup']" in caplog.text


def test_a_late_site_with_other_code_is_kept_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run, early = config(min_unlabeled=0), EVERYONE - {"west"}
    sites = numbers(run, west={"info": {"fingerprint": "123"}})
    exchange = Comings(sites, [early, early, EVERYONE])
    through(exchange, run, tmp_path)
    assert replies(exchange)[2] == []
    assert "Refused: Site 'west' runs other code: fingerprint 123" in caplog.text


def test_a_quorum_is_of_sites_that_fit_and_the_error_names_the_others(tmp_path: Path):
    run = config(round_timeout=0.05)
    sites = numbers(run, west={"task": OTHER_CLASSES})
    with pytest.raises(FederationError) as raised:
        through(Comings(sites, [EVERYONE]), run, tmp_path)
    text = str(raised.value)
    assert "0 unlabeled sites, but min-unlabeled = 1" in text
    assert "Refused: Site 'west' has classes = ['background', 'cup']" in text


def test_where_all_sites_are_known_from_the_start_one_that_differs_ends_the_run(tmp_path: Path):
    run = config()
    sites = numbers(run, west={"info": {"fingerprint": "123"}})
    with pytest.raises(FederationError, match="'west' runs other code: fingerprint 123"):
        through(Comings(sites, [EVERYONE], open=False), run, tmp_path)


def test_a_site_that_computes_with_another_torch_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = config()
    other = json.dumps({**versions(), "torch": "1.0"})
    sites = numbers(run, west={"info": {"versions": other}})
    exchange = Comings(sites, [EVERYONE])
    through(exchange, run, tmp_path)
    assert f"Site west has torch 1.0, {versions()['torch']} elsewhere." in caplog.text
    assert replies(exchange)[2] == [0, 1, 2]
