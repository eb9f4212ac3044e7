"""Who does not fit is kept out, with the reason, and the others train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from comings import TASK, Comings, Number
from numbered import EVERYONE, config, numbers, replies, through, weight

from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.roster import common_task, misfit
from fedssl.site import versions
from fedssl.types import Download, Role, Upload

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
    assert 'the run by {"channels": 1, "crop": false, "image_size": null' in found


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
