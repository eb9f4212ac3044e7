"""The coordinator takes what fits, refuses what does not, and says which site and why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tiny_federations import (
    Finished,
    Silent,
    Watched,
    open_sites,
    run_through,
    run_watched,
    tiny_run,
    write_federation,
)

from fedssl.config import RunConfig, Scalar
from fedssl.coordinator import run_federation
from fedssl.errors import CheckpointError, FederationError
from fedssl.results import RoundRecord, RunFolder
from fedssl.roster import common_task, misfit, site_info
from fedssl.site import Site, versions
from fedssl.types import Arrays, Role, SiteInfo, Upload

PAIR = {"north": "labeled", "west": "unlabeled"}
DENOISE: dict[str, Scalar] = {"denoise.warmup-rounds": 0, "denoise.passes": 1}


@pytest.fixture
def configure(tmp_path: Path, prepared_cache: Path) -> Callable[..., RunConfig]:
    def build(
        method: str = "fedavg",
        keys: Mapping[str, Scalar] | None = None,
        roles: Mapping[str, str] = PAIR,
    ) -> RunConfig:
        own = DENOISE if method == "denoise" else {}
        file = write_federation(tmp_path / "-".join(roles), roles)
        flat = {"method": method, "rounds": 2, "local-steps": 1, **own, **(keys or {})}
        return tiny_run(file, prepared_cache, flat)

    return build


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


# --- how many replies are enough -----------------------------------------------------------------

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
    assert set(found["sites"]["west"]["dice"].values()) == {None}
    assert found["mean_dice"] is not None


# --- the run as a whole --------------------------------------------------------------------------


@dataclass
class Diary(Silent):
    """Writes down what it is told."""

    told: list[object] = field(default_factory=list)

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        self.told.append((list(roster), round_))

    def round_done(self, record: RoundRecord) -> None:
        self.told.append((record.round, sorted(record.evaluation)))

    def finish(self, folder: RunFolder) -> None:
        self.told.append(folder.results.is_file())


def test_progress_is_told_of_the_start_of_every_round_and_of_the_end(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    diary = Diary()
    run = configure("fedavg", {"rounds": 4, "evaluate.every": 2})
    run_watched(run, tmp_path / "run", progress=diary)
    assert diary.told == [
        (["north", "west"], 0),
        (0, []),
        (1, ["north", "west"]),
        (2, []),
        (3, []),  # the last round is followed by the test split instead
        True,
    ]


def test_validation_scores_are_recorded_and_the_test_split_is_scored_once(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("fedavg", {"rounds": 3, "evaluate.every": 1})
    finished = run_watched(run, tmp_path / "run")
    splits = [
        (d.round, d.options["split"])
        for d in finished.exchange.downloads
        if d.stage == "evaluate" and d.site == "west"
    ]
    assert splits == [(0, "val"), (1, "val"), (3, "test")]
    evaluation = finished.rounds[0]["evaluation"]["west"]
    site = finished.exchange.sites["west"]
    assert (evaluation["split"], evaluation["cases"]) == ("val", len(site.split.val))
    assert evaluation["metrics"].keys() == {"dice/disc", "dice/cup"}
    assert finished.results["sites"]["west"]["split"] == "test"
    assert finished.results["sites"]["west"]["cases"] == len(site.split.test)


def test_bytes_count_what_every_message_holds(configure: Callable[..., RunConfig], tmp_path: Path):
    finished = run_watched(configure("denoise"), tmp_path / "run")
    weights = finished.exchange.trained[0].weights.values()
    size = sum(w.numel() * w.element_size() for w in weights)
    assert [(r["bytes_down"], r["bytes_up"]) for r in finished.rounds] == [(2 * size, 2 * size)] * 2
    assert finished.results["bytes_up"] == 4 * size


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_written(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure()
    run_watched(run, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match="holds a run already"):
        run_watched(run.model_copy(update={"seed": 1}), tmp_path / "run")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_run_that_cannot_begin_leaves_no_folder(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("fedavg", {}, {"far": "unlabeled", "west": "unlabeled"})
    with pytest.raises(FederationError, match="at least one site must have masks"):
        run_watched(run, tmp_path / "run")
    with pytest.raises(CheckpointError, match="Nothing to resume"):
        run_watched(configure("fedavg", {"resume": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the roster ----------------------------------------------------------------------------------


@pytest.fixture
def sites(configure: Callable[..., RunConfig], tmp_path: Path) -> dict[str, Site]:
    return open_sites(configure(), tmp_path / "sites")


def test_a_site_describes_itself_so_that_it_fits(
    sites: dict[str, Site], configure: Callable[..., RunConfig]
):
    from fedssl.types import Download

    told = [s.answer(Download("r", 0, "describe", name)) for name, s in sites.items()]
    north, west = told
    assert common_task(told) == sites["north"].task
    assert [misfit(u, sites["north"].task, configure(), versions()["fedssl"]) for u in told] == [
        "",
        "",
    ]
    count = len(sites["north"].split.train)
    assert site_info(north) == SiteInfo("north", Role.LABELED, count, count)
    assert site_info(west).num_labeled == 0


def test_two_sites_of_one_name_are_refused(
    sites: dict[str, Site], configure: Callable[..., RunConfig], tmp_path: Path
):
    @dataclass
    class Twice(Watched):
        def describe(self, run):
            return [u for u in super().describe(run) for _ in range(2)]

    with pytest.raises(FederationError, match="Two nodes say that they are site 'north'"):
        run_through(Twice(sites), configure(), tmp_path / "run")


def test_a_quorum_that_no_federation_of_these_sites_reaches_is_refused_at_once(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    run = configure("fedavg", {"min-labeled": 2})
    with pytest.raises(FederationError, match="1 labeled or mixed sites, but min-labeled = 2"):
        run_watched(run, tmp_path / "run")


# --- the loop in one process ---------------------------------------------------------------------


def test_a_site_that_fails_is_logged_and_missing(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    from fedssl.errors import TrainingError
    from fedssl.loopback import simulate

    original = Site.answer

    def failing(self, download):
        if self.spec.name == "west" and download.stage == "train":
            raise TrainingError("west has no light")
        return original(self, download)

    monkeypatch.setattr(Site, "answer", failing)
    run = configure("denoise", {"min-unlabeled": 0})
    with caplog.at_level(logging.ERROR):
        simulate(run, tmp_path / "run", progress=Silent())
    assert "Site west failed: west has no light" in caplog.text
    assert [list(r["sites"]) for r in Finished(tmp_path / "run", run, Watched({})).rounds] == [
        ["north"],
        ["north"],
    ]


def test_an_error_that_nobody_foresaw_is_logged_with_its_traceback(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    from fedssl.loopback import LoopbackExchange
    from fedssl.types import Download

    run = configure()
    exchange = LoopbackExchange(open_sites(run, tmp_path / "run"))
    monkeypatch.setattr(Site, "answer", lambda self, download: 1 / 0)
    assert exchange.send([Download("r", 0, "train", "north")], {}) == []
    assert "Site north failed." in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_message_for_another_site_is_refused(sites: dict[str, Site]):
    from fedssl.types import Download

    with pytest.raises(FederationError, match="for site 'west' reached site 'north'"):
        sites["north"].answer(Download("r", 0, "describe", "west"))


def test_the_loop_is_the_same_whoever_carries_the_messages(
    configure: Callable[..., RunConfig], tmp_path: Path
):
    from fedssl.loopback import LoopbackExchange

    run = configure("denoise")
    direct = run_watched(run, tmp_path / "direct")
    exchange = LoopbackExchange(open_sites(run, tmp_path / "loop"))
    folder = run_federation(run, exchange, tmp_path / "loop", progress=Silent())
    assert json.loads(folder.results.read_text())["weights_sha256"] == direct.digest
