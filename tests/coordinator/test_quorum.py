"""How many replies a round needs, and what a missing one changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_federations import (
    run_watched,
)

from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.types import Upload

FOUR = {"east": "labeled", "far": "unlabeled", "north": "labeled", "west": "unlabeled"}


def test_too_few_labeled_replies_end_the_run_and_name_who_is_missing(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("denoise", {"min-labeled": 2}, FOUR)
    message = r"Round 2, stage 'train': 1 of 2 labeled sites .*min-labeled = 2\. Missing: north\."
    with pytest.raises(FederationError, match=message):
        run_watched(run, tmp_path / "run", absent={(1, "north")})
    checkpoint = tmp_path / "run" / "checkpoint" / "latest.safetensors"
    assert checkpoint.is_file()  # the first round is safe; --resume goes on
    again = run_watched(run.model_copy(update={"resume": True}), tmp_path / "run")
    assert again.digest == run_watched(run, tmp_path / "whole").digest


def test_too_few_unlabeled_replies_end_the_run_unless_none_are_needed(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    gone = {(0, "west"), (0, "far")}
    message = "0 of 2 unlabeled sites gave a usable reply; min-unlabeled = 1. Missing: far, west."
    with pytest.raises(FederationError, match=message):
        run_watched(configure("denoise", {}, FOUR), tmp_path / "run", absent=gone)
    run = configure("denoise", {"min-unlabeled": 0}, FOUR)
    finished = run_watched(run, tmp_path / "other", absent=gone)
    assert list(finished.rounds[0]["sites"]) == ["east", "north"]
    assert list(finished.rounds[1]["sites"]) == ["east", "far", "north", "west"]


def test_a_site_that_misses_a_round_is_left_out_of_it_only(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("fedavg", {}, {"east": "labeled", "north": "labeled"})
    finished = run_watched(run, tmp_path / "run", absent={(0, "east")})
    assert [list(r["sites"]) for r in finished.rounds] == [["north"], ["east", "north"]]


def test_a_site_that_cannot_evaluate_has_no_scores_and_the_run_is_complete(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    def lost(upload: Upload) -> Upload | None:
        return None if upload.stage == "evaluate" and upload.site == "west" else upload

    found = run_watched(configure(), tmp_path / "run", change=lost).results
    assert found["sites"]["west"]["cases"] == 0
    assert [found["sites"][name]["answered"] for name in ("north", "west")] == [True, False]
    assert set(found["sites"]["west"]["dice"].values()) == {None}
    assert found["mean_dice"] is not None


def test_a_quorum_that_no_federation_of_these_sites_reaches_is_refused_at_once(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("fedavg", {"min-labeled": 2})
    with pytest.raises(FederationError, match="1 labeled or mixed sites, but min-labeled = 2"):
        run_watched(run, tmp_path / "run")
