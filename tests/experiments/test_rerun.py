"""Reruns of finished rows: from their folders, and from their records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_experiments import app, write_experiment

from experiments import record, rerun, run
from experiments.grid import jobs_of
from fedssl.config import Scalar

NAME = "tiny/denoise/seed1"


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished row of the runner."""
    folder = tmp_path_factory.mktemp("row")
    keys: dict[str, Scalar] = {"method": "denoise", "denoise.warmup-rounds": 1}
    path = write_experiment(folder / "tiny", "denoise", **keys)
    (job,) = jobs_of(path, [1])
    assert job.name == NAME
    assert run.run_job(job, folder / "runs", run.Engine.LOOPBACK) == 0
    return folder / "runs" / job.name


@pytest.fixture
def recorded(row: Path, tmp_path: Path) -> tuple[str, ...]:
    """Options that find the row's record, and its federation, which no repository has."""
    records = tmp_path / "records"
    status, text = app(record.main, str(row.parents[2]), "--out", str(records))
    assert (status, text.strip()) == (0, "tiny: 1 new, 0 replaced, 0 there already")
    federation = row.parents[3] / "tiny/federation.toml"
    return "--records", str(records), "--set", f"federation={federation}"


def test_a_rerun_of_a_row_has_the_same_digest(row: Path, tmp_path: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in row.rglob("*"))
    status, text = app(rerun.main, str(row), "--out", str(tmp_path / "again"))
    assert (status, text.strip()) == (0, f"same {_digest(row)}")
    assert _digest(tmp_path / "again") == _digest(row)
    assert sorted((p, p.stat().st_mtime_ns) for p in row.rglob("*")) == before


def test_a_rerun_that_differs_names_both_digests_and_fails(row: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(row, changed)
    results = json.loads((changed / "results.json").read_text())
    config = (changed / "config.toml").read_text()
    assert "seed = 1\n" in config
    (changed / "config.toml").write_text(config.replace("seed = 1\n", "seed = 2\n", 1))
    results["versions"]["torch"] = "1.0"
    (changed / "results.json").write_text(json.dumps(results))
    status, text = app(rerun.main, str(changed), "--out", str(tmp_path / "again"))
    assert status == 1
    assert f"first  {_digest(row)}" in text
    assert f"second {_digest(tmp_path / 'again')}" in text
    assert "torch: 1.0 then" in text
    assert "cpu: unknown then" in text


def test_a_recorded_row_is_rerun_by_its_name(row: Path, recorded: tuple[str, ...]) -> None:
    assert app(rerun.main, NAME, *recorded) == (0, f"same {_digest(row)}\n")


def test_a_recorded_row_that_differs_tells_the_machine(
    recorded: tuple[str, ...], tmp_path: Path
) -> None:
    (path,) = (tmp_path / "records").iterdir()
    content = json.loads(path.read_text())
    content |= {"cpu": "Abacus 1", "commit": "0000000"}
    path.write_text(json.dumps(content) + "\n")
    status, text = app(rerun.main, NAME, *recorded, "--set", "seed=2")
    assert status == 1
    assert f"cpu: Abacus 1 then, {record.cpu()} now" in text
    assert "commit: 0000000 then" in text
    assert "torch" not in text, "its version is the same"


def test_a_federation_outside_the_repository_has_to_be_given(recorded: tuple[str, ...]) -> None:
    status, text = app(rerun.main, NAME, *recorded[:2])
    assert (status, "federation.toml, is not there" in " ".join(text.split())) == (1, True)
    assert "--set federation=PATH" in " ".join(text.split())


def test_an_unknown_name_is_told_with_those_that_are_close(recorded: tuple[str, ...]) -> None:
    status, text = app(rerun.main, "tiny/denoize/seed1", *recorded)
    assert (status, f"Did you mean '{NAME}'?" in text) == (1, True)
    status, text = app(rerun.main, "elsewhere", "--records", "nowhere")
    assert (status, "one of the 0 runs recorded in nowhere." in text) == (1, True)


def test_only_a_finished_row_can_be_rerun(tmp_path: Path) -> None:
    status, text = app(rerun.main, str(tmp_path))
    assert (status, "holds no finished run" in text) == (1, True)


def _digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["weights_sha256"])
