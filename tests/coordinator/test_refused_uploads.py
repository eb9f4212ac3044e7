"""An upload that does not fit is refused; the message says whose, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tiny_federations import (
    Watched,
    open_sites,
    run_through,
    run_watched,
)

from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.types import Arrays, Role, Upload


def weights_with(upload: Upload, **changed: torch.Tensor) -> Upload:
    return replace(upload, weights={**upload.weights, **changed})


def without(arrays: Arrays, name: str) -> Arrays:
    return {k: v for k, v in arrays.items() if k != name}


BROKEN: dict[str, tuple[Callable[[Upload], Upload], str]] = {
    "shape": (
        lambda u: weights_with(u, **{"head.bias": torch.zeros(7)}),
        r"'head\.bias' are torch\.float32 \(7,\); expected torch\.float32 \(2,\)",
    ),
    "dtype": (
        lambda u: weights_with(u, **{"head.bias": u.weights["head.bias"].double()}),
        r"'head\.bias' are torch\.float64 \(2,\); expected torch\.float32",
    ),
    "nan": (
        lambda u: weights_with(u, **{"head.bias": u.weights["head.bias"] * torch.nan}),
        r"'head\.bias' holds NaN or infinity",
    ),
    "infinity": (
        lambda u: weights_with(u, **{"head.bias": u.weights["head.bias"] + torch.inf}),
        r"'head\.bias' holds NaN or infinity",
    ),
    "missing": (
        lambda u: replace(u, weights=without(u.weights, "head.bias")),
        r"weights \['head\.bias'\] are missing or undeclared",
    ),
    "undeclared weights": (
        lambda u: weights_with(u, tail=torch.zeros(1)),
        r"weights \['tail'\] are missing or undeclared",
    ),
    "undeclared knowledge": (
        lambda u: replace(u, knowledge={"images": torch.zeros(3)}),
        r"carries 'images', which the method does not declare \(declared: nothing\)",
    ),
    "role": (
        lambda u: replace(u, role=Role.MIXED),
        r"is mixed now and was (un)?labeled when the run began",
    ),
    "no samples": (
        lambda u: replace(u, num_labeled=0, num_examples=0),
        r"counts no samples to be weighed by",
    ),
    "metric": (
        lambda u: replace(u, metrics={"loss": float("nan")}),
        r"metric 'loss' is nan",
    ),
}


def broken(site: str, how: str) -> Callable[[Upload], Upload]:
    change, _ = BROKEN[how]
    return lambda upload: change(upload) if upload.site == site and upload.weights else upload


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_upload_of_the_only_labeled_site_ends_the_run_and_is_explained(
    how: str, configure: Callable[..., RunConfig], tmp_path: Path
):
    with pytest.raises(FederationError) as raised:
        run_watched(configure(), tmp_path / "run", change=broken("north", how))
    text = str(raised.value)
    assert text.startswith("Round 1, stage 'train': 0 of 1 labeled sites gave a usable reply;")
    assert "Missing: north." in text
    assert raised.match(BROKEN[how][1])
    assert "'north'" in text
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize("how", ["shape", "undeclared knowledge", "role", "metric"])
def test_a_broken_upload_of_an_unlabeled_site_is_left_out_and_logged(
    how: str,
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    run = run_watched(configure("denoise"), tmp_path / "run", change=broken("west", how))
    refusals = [r for r in caplog.records if r.getMessage().startswith("Refused: ")]
    assert len(refusals) == 2
    assert all("'west'" in r.getMessage() for r in refusals)
    assert [list(r["sites"]) for r in run.rounds] == [["north"], ["north"]]
    fedavg = run_watched(configure("fedavg"), tmp_path / "fedavg")
    assert run.digest == fedavg.digest


@pytest.mark.parametrize(
    ("method", "keys", "stage", "lacking"),
    [
        ("fedirm", {}, "train", "lacks relation, relation_valid"),
        ("cbafed", {}, "train", "lacks class_count"),
        ("fedsemiseg", {}, "train", "lacks prototype"),
        (
            "denoise",
            {"denoise.prototypes": "labeled"},
            "prototypes",
            "lacks object_sum, background_sum, object_weight, background_weight",
        ),
    ],
)
def test_an_upload_without_what_the_method_always_sends_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, method, keys, stage, lacking
):
    def emptied(upload: Upload) -> Upload:
        return replace(upload, knowledge={}) if upload.stage == stage else upload

    run = configure(method, {f"{method}.warmup-rounds": 0, **keys})
    with pytest.raises(FederationError, match=lacking):
        run_watched(run, tmp_path / "run", change=emptied)


@pytest.mark.parametrize(
    "metrics",
    [{"cases": math.nan}, {"dice/disc/sum": 1.0}, {"dice/disc/sum": math.inf, "cases": 1.0}],
)
def test_scores_that_cannot_be_used_are_left_out_and_the_run_goes_on(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    metrics: dict[str, float],
):
    def odd(upload: Upload) -> Upload:
        scores = upload.stage == "evaluate" and upload.site == "west"
        return replace(upload, metrics=metrics) if scores else upload

    run = configure("fedavg", {"evaluate.every": 1})
    done = run_watched(run, tmp_path / "run", change=odd)
    assert len(done.rounds) == 2
    assert done.results["sites"]["west"]["answered"] is False
    assert done.results["sites"]["north"]["answered"] is True
    assert "Refused: the scores of site 'west'" in caplog.text


@dataclass
class Answers(Watched):
    """Adds uploads that nobody asked for."""

    extra: Sequence[Upload] = field(default_factory=list)

    def send(self, downloads, roster):
        stage, round_ = downloads[0].stage, downloads[0].round
        return [
            *(replace(u, stage=stage, round=round_) for u in self.extra if stage != "evaluate"),
            *super().send(downloads, roster),
        ]


def test_an_upload_of_a_site_that_was_not_asked_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = configure()
    plain = run_watched(run, tmp_path / "plain")
    sent = plain.exchange.trained[0].weights
    strangers = [Upload(site, Role.LABELED, 0, "", 9, 9, sent) for site in ("west", "nobody")]
    exchange = Answers(open_sites(run, tmp_path / "run"), extra=strangers)
    assert run_through(exchange, run, tmp_path / "run").digest == plain.digest
    for site in ("west", "nobody"):
        assert f"Site '{site}' was not asked in stage 'train'" in caplog.text


def test_an_upload_of_another_round_is_no_reply(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    def late(upload: Upload) -> Upload:
        return replace(upload, round=upload.round - 1)

    with pytest.raises(FederationError, match=r"Missing: north\. The sites' logs hold the reason"):
        run_watched(configure(), tmp_path / "run", change=late)
