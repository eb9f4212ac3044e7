"""The run as a whole: what it records, how it begins and ends, who carries its messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tiny_federations import (
    Finished,
    Silent,
    Watched,
    open_sites,
    run_through,
    run_watched,
)

from fedssl.config import RunConfig
from fedssl.coordinator import run_federation
from fedssl.errors import CheckpointError, FederationError
from fedssl.results import RoundRecord, RunFolder
from fedssl.roster import common_task, misfit, site_info
from fedssl.site import Site, versions
from fedssl.types import Role, SiteInfo
from fedssl.wire import Transfer, pack_download


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


@pytest.mark.parametrize("transfer", ["fp32", "fp16"])
def test_bytes_count_what_every_message_holds_as_it_is_sent(
    configure: Callable[..., RunConfig], tmp_path: Path, transfer: Transfer
):
    finished = run_watched(configure("denoise", {"transfer": transfer}), tmp_path / "run")
    sent = pack_download(finished.exchange.downloads[0], transfer).array_records["weights"]
    size = sum(len(array.data) for array in sent.values())
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


@pytest.mark.parametrize("transfer", ["fp32", "fp16"])
def test_the_loop_is_the_same_whoever_carries_the_messages(
    configure: Callable[..., RunConfig], tmp_path: Path, transfer: Transfer
):
    from fedssl.loopback import LoopbackExchange

    run = configure("denoise", {"transfer": transfer})
    packed = Watched(open_sites(run, tmp_path / "direct"), wire=True, transfer=transfer)
    direct = run_through(packed, run, tmp_path / "direct")
    exchange = LoopbackExchange(open_sites(run, tmp_path / "loop"), transfer)
    folder = run_federation(run, exchange, tmp_path / "loop", progress=Silent())
    assert json.loads(folder.results.read_text())["weights_sha256"] == direct.digest
