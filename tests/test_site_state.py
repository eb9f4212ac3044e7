"""A site's state survives a restart, and is used only as it was written, in its own run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_federations import (
    Finished,
    Watched,
    open_sites,
    run_through,
    run_watched,
    tiny_run,
    write_federation,
)

from fedssl.checkpoint import new_run_token, next_attempt
from fedssl.config import RunConfig, Scalar
from fedssl.errors import FederationError
from fedssl.memory import split_token
from fedssl.types import Download, Upload

PAIR = {"north": "labeled", "west": "unlabeled"}
KEYS: dict[str, dict[str, Scalar]] = {
    "denoise": {"denoise.warmup-rounds": 0, "denoise.refresh": 0, "denoise.passes": 1},
    "mean_teacher": {"mean_teacher.warmup-rounds": 0},
}
"""Pseudo-labels and an optimizer; a teacher and an optimizer."""


@pytest.fixture
def configure(tmp_path: Path, prepared_cache: Path) -> Callable[[str], RunConfig]:
    def build(method: str) -> RunConfig:
        file = write_federation(tmp_path / "federation", PAIR)
        keys: dict[str, Scalar] = {"rounds": 3, "local-steps": 1, "tracking": "", **KEYS[method]}
        return tiny_run(file, prepared_cache, {"method": method, **keys})

    return build


@dataclass
class Restarted(Watched):
    """West is a new process for every message; `between` happens to its files before round 3."""

    folder: Path = Path()
    run: RunConfig | None = None
    between: Callable[[Path], object] = lambda folder: None

    def _answer(self, download: Download) -> Upload:
        if download.site == "west" and self.run is not None:
            if download.round == 2 and download.stage != "evaluate":
                self.between(self.folder / "sites" / "west")
            self.sites = {**self.sites, "west": open_sites(self.run, self.folder)["west"]}
        return super()._answer(download)


def restarted(
    run: RunConfig, folder: Path, between: Callable[[Path], object] = lambda folder: None
) -> Finished:
    sites = open_sites(run, folder)
    exchange = Restarted(sites, folder=folder, run=run, between=between)
    return run_through(exchange, run, folder)


def newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert found, pattern
    return found[-1]


def remove(folder: Path, pattern: str) -> None:
    """Remove a file of the memory in all its versions, or one map."""
    for path in [newest(folder, pattern)] if "pseudo" in pattern else folder.glob(pattern):
        path.unlink()


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("method", KEYS)
def test_a_site_that_is_restarted_for_every_message_goes_on_where_it_was(
    method: str, configure: Callable[[str], RunConfig], tmp_path: Path
):
    run = configure(method)
    undisturbed = run_watched(run, tmp_path / "undisturbed")
    assert restarted(run, tmp_path / "restarted").digest == undisturbed.digest


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("denoise", "memory/optimizer-train.*"),
        ("denoise", "pseudo/*.trust.npy"),
        ("mean_teacher", "memory/teacher.*"),
    ],
)
def test_state_that_was_changed_is_named_and_the_site_goes_on_as_if_it_were_not_there(
    method: str,
    pattern: str,
    configure: Callable[[str], RunConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    run = configure(method)
    changed = restarted(run, tmp_path / "a", lambda folder: flip(newest(folder, pattern), -200))
    (message,) = {r.getMessage() for r in caplog.records if "is not used" in r.getMessage()}
    assert "the site goes on without it: its digest is " in message
    removed = restarted(run, tmp_path / "b", lambda folder: remove(folder, pattern))
    assert changed.digest == removed.digest


def test_state_of_another_run_is_named_and_not_used(
    configure: Callable[[str], RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run, pattern = configure("denoise"), "memory/optimizer-train.*"
    other = run_watched(run, tmp_path / "other").folder / "sites" / "west"

    def swapped(folder: Path) -> None:
        newest(folder, pattern).write_bytes(newest(other, pattern).read_bytes())

    done = restarted(run, tmp_path / "a", swapped)
    assert "it is of the run " in caplog.text
    removed = restarted(run, tmp_path / "b", lambda folder: remove(folder, pattern))
    assert done.digest == removed.digest


def test_a_new_run_forgets_the_state_of_the_one_before_and_says_so(
    configure: Callable[[str], RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = configure("denoise")
    first = run_watched(run, tmp_path / "first")
    sites = open_sites(run, tmp_path / "first")  # the sites keep their state directories
    with caplog.at_level(logging.WARNING, "fedssl"):
        second = run_through(Watched(sites), run, tmp_path / "second")
    assert "Site west: the state of run " in caplog.text
    assert second.digest == first.digest


def test_a_message_that_waited_while_the_site_was_away_is_ignored(
    configure: Callable[[str], RunConfig], tmp_path: Path
):
    run = configure("denoise")
    watched = run_watched(run, tmp_path / "run").exchange
    west = watched.sites["west"]
    trained = [d for d in watched.downloads if d.site == "west" and d.stage == "train"]
    labels = {p: p.read_bytes() for p in (tmp_path / "run/sites/west/pseudo").iterdir()}
    with pytest.raises(FederationError, match=r"round 1, stage 'train'.*it is stale, step 3"):
        west.answer(trained[0])
    assert labels == {p: p.read_bytes() for p in (tmp_path / "run/sites/west/pseudo").iterdir()}


def test_a_resumed_run_is_a_new_attempt_so_its_repeated_rounds_are_not_stale():
    token = new_run_token()
    run, attempt = split_token(token)
    assert (split_token(next_attempt(token)), attempt) == ((run, 1), 0)
    assert split_token("plain") == ("plain", 0)
