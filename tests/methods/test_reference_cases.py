"""`reference.cases-per-round`: a large site labels and draws from a part of its cases."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_federations import run_watched, tiny_run, write_federation

KEYS = {
    "method": "reference",
    "rounds": 5,
    "reference.grid": 16,
    "reference.min-pixels": 2,
    "reference.centroids": 8,
    "reference.background-centroids": 12,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared_cache):
    federation = write_federation(tmp_path_factory.mktemp("sites"))

    def start(count: int, **watch):
        flat = {**KEYS, "reference.cases-per-round": count, **watch.pop("keys", {})}
        config = tiny_run(federation, prepared_cache, flat)
        return run_watched(config, tmp_path_factory.mktemp("run") / "run", **watch)

    return start


def labeled_cases(done) -> int:
    return len(list((done.folder / "sites" / "west" / "pseudo").glob("*.weight.npy")))


def test_every_round_labels_other_cases_and_draws_from_them(run):
    done, everything = run(1), run(0)
    total = len(done.exchange.sites["west"].data.unlabeled)
    assert 1 < labeled_cases(done) < total
    assert labeled_cases(everything) == total
    # A batch with a case that was never labeled would have stopped the run.
    assert done.rounds[-1]["sites"]["west"]["loss/reference"] > 0
    assert done.digest != everything.digest


def test_more_cases_than_there_are_is_all_of_them(run):
    assert run(1000).digest == run(0).digest


def test_a_round_without_a_bank_draws_from_cases_with_the_same_maps(run):
    done = run(1, keys={"min-unlabeled": 0}, absent={(2, "west")})
    fourth, fifth = (r["sites"]["west"] for r in done.rounds[3:])
    assert fourth["no_reference"] == 1
    assert np.isfinite(fourth["loss/consistency"])
    assert fifth["no_reference"] == 0
