"""A site may come late, in every method."""

from __future__ import annotations

from pathlib import Path

from comings import Comings
from tiny_federations import ROLES, Configure, Silent, open_sites, run_watched

from fedssl.coordinator import run_federation
from fedssl.results import RunFolder


def test_a_site_that_comes_late_is_as_one_that_was_away_until_then(
    configure: Configure, tmp_path: Path
):
    run = configure({"min-unlabeled": 0})
    away = run_watched(run, tmp_path / "away", absent={(0, "west"), (1, "west")})
    early = set(ROLES) - {"west"}
    network = Comings(open_sites(run, tmp_path / "late"), [early, early, early, set(ROLES)])
    late: RunFolder = run_federation(run, network, tmp_path / "late", progress=Silent())
    rounds = late.records()
    assert [r["sites"].keys() for r in rounds] == [r["sites"].keys() for r in away.rounds]
    assert [r["rule"] for r in rounds] == [r["rule"] for r in away.rounds]
    assert late.results.read_text().count(away.digest) == 1
