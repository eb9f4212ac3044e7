"""The runner: grids, what is done already, what a kill leaves, what it will take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tiny_experiments import app, write_experiment

from experiments import run
from experiments.cost import estimate, known_seconds
from experiments.grid import Job, is_experiment, jobs_of, matches
from experiments.open_jobs import open_jobs
from fedssl.errors import ConfigError
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.progress import ConsoleProgress

ROOT = Path(__file__).parents[2]
SWEEPS = [p for p in sorted((ROOT / "experiments/sweeps").glob("*.toml")) if is_experiment(p)]


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    grid = "\n[grid]\n'denoise.mu' = [0.5, 1.0]\nlabeled-sites = ['a', 'a,b']\n"
    path = write_experiment(tmp_path, "mu", grid)
    names = [job.name for job in jobs_of(path, range(2))]
    mus, sites = (0.5, 1.0), ("a", "a+b")
    points = [f"denoise.mu={mu},labeled-sites={site}" for mu in mus for site in sites]
    assert names == [f"{tmp_path.name}/mu/{p}/seed{s}" for p in points for s in (0, 1)]
    assert jobs_of(path, [3])[3].config["labeled-sites"] == "a,b"
    assert jobs_of(path, [3])[3].config["seed"] == 3


def test_every_fold_can_be_the_test_split_once(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, "cv", "\n[grid]\n'denoise.mu' = [0.5, 1.0]\n")
    jobs = jobs_of(path, [0, 1], all_folds=True)
    own = [job.name.replace("cv/", "") for job in jobs if "0.5" in job.name and "seed1" in job.name]
    place = f"{tmp_path.name}/denoise.mu=0.5"
    assert own == [f"{place}/seed1", *(f"{place}/fold{k}/seed1" for k in (1, 2, 3))]
    assert [job.config["split.fold"] for job in jobs[::2]] == [0, 1, 2, 3] * 2
    assert {j.name for j in jobs_of(path, [0, 1])} < {j.name for j in jobs}
    path.write_text("split.fold = 2\nsplit.folds = 3\n" + path.read_text())
    jobs = jobs_of(path, [0], all_folds=True)
    names = [job.name.rpartition("/seed")[0].replace("cv/", "") for job in jobs]
    assert names[:3] == [f"{place}/fold0", f"{place}/fold1", place]


def test_federations_of_a_grid_are_files_beside_it(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, "sites", "\n[grid]\nfederation = ['federation.toml']\n")
    (job,) = jobs_of(path, [0])
    assert job.config["federation"] == str(tmp_path / "federation.toml")
    assert job.name == f"{tmp_path.name}/sites/federation=federation.toml/seed0"


@pytest.mark.parametrize("values", ["0.5", "[]", "'a'"])
def test_a_grid_of_anything_but_lists_is_named(tmp_path: Path, values: str) -> None:
    path = write_experiment(tmp_path, "mu", f"\n[grid]\n'denoise.mu' = {values}\n")
    status, text = app(run.main, str(path), "--dry")
    assert (status, "'denoise.mu' needs a list of values" in text) == (1, True)


def test_an_experiment_that_extends_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    status, text = app(run.main, str(tmp_path / "a.toml"), "--dry")
    assert (status, "extends itself" in text) == (1, True)


def test_files_that_stand_for_no_run_are_an_error(tmp_path: Path) -> None:
    write_experiment(tmp_path, "common")
    files = [str(tmp_path / name) for name in ("common.toml", "federation.toml")]
    status, text = app(run.main, *files, "--dry")
    assert (status, "nothing to run" in text) == (1, True)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_sweep_varies_what_its_grid_names_and_nothing_else(path: Path) -> None:
    import math
    import tomllib

    grid = tomllib.loads(path.read_text())["grid"]
    jobs = jobs_of(path, [0])
    assert len(jobs) == math.prod(len(values) for values in grid.values()) > 1
    varying = {k for k in jobs[0].config if len({job.config[k] for job in jobs}) > 1}
    assert varying == set(grid)


def test_the_sweeps_that_the_field_asks_for_are_there() -> None:
    stems = {path.stem for path in SWEEPS}
    wanted = {"labeled-sites", "mu", "refresh", "passes", "k", "thresholds", "warmup", "ratio"}
    assert wanted <= stems


def test_a_sweep_runs_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    grid = "\n[grid]\nlabeled-sites = ['north', 'north,west']\n"
    path = write_experiment(tmp_path / "tiny", "sweep", grid)
    out = tmp_path / "runs"
    status, text = app(run.main, str(path), "--out", str(out), "--jobs", "1")
    assert status == 0, text
    assert "2 runs, 0 of them finished, 2 to do." in text
    assert "No run of tiny is finished" in text
    files = sorted(out.glob("tiny/sweep/*/seed0/results.json"))
    assert [f.parts[-3] for f in files] == ["labeled-sites=north", "labeled-sites=north+west"]
    roles = [json.loads(f.read_text())["sites"]["west"]["role"] for f in files]
    assert roles == ["unlabeled", "labeled"]
    before = [(f.stat().st_mtime_ns, f.read_bytes()) for f in files]
    status, text = app(run.main, str(path), "--out", str(out), "--jobs", "1")
    assert (status, "2 of them finished, 0 to do" in text) == (0, True)
    assert [(f.stat().st_mtime_ns, f.read_bytes()) for f in files] == before


@pytest.mark.timeout(1800)
def test_a_killed_runner_leaves_no_run_behind_and_is_continued(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "tiny", "long", rounds=60, seed=0)
    out = tmp_path / "runs"
    folder = out / "tiny/long/seed0"
    command = [sys.executable, "-m", "experiments.run", str(path), "--out", str(out), "--jobs", "1"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        _wait(lambda: _rounds(folder) >= 3)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    _wait(lambda: not _writers(folder))
    reached = _rounds(folder)
    assert 3 <= reached < 60
    assert not (folder / "results.json").exists()
    lines = (folder / "rounds.jsonl").read_text().splitlines()[: reached - 1]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = (folder / "rounds.jsonl").read_text().splitlines()
    assert len(after) == 60
    assert after[: len(lines)] == lines, "finished rounds are not run again"
    (job,) = jobs_of(path, [0])
    console = ConsoleProgress(Console(quiet=True))
    simulate(load_config(job.config), tmp_path / "whole", progress=console)
    assert _digest(tmp_path / "whole") == _digest(folder)


def test_a_run_without_a_checkpoint_is_set_aside_not_overwritten(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "tiny", "early")
    folder = tmp_path / "runs/tiny/early/seed0"
    folder.mkdir(parents=True)
    (folder / "rounds.jsonl").write_text("half a li")
    (job,) = jobs_of(path, [0])
    assert run.run_job(job, tmp_path / "runs", run.Engine.LOOPBACK) == 0
    assert (folder / "results.json").is_file()
    aside = folder.with_name("seed0.interrupted-1")
    assert (aside / "rounds.jsonl").read_text() == "half a li"


def test_the_estimate_goes_by_finished_runs(tmp_path: Path) -> None:
    def finished(name: str, seconds: float) -> None:
        (tmp_path / name).mkdir(parents=True)
        results = {"wall_seconds": seconds, "sites": {}, "weights_sha256": "0"}
        (tmp_path / name / "results.json").write_text(json.dumps(results))

    finished("eyes/lower/seed0", 60.0)
    finished("eyes/denoise/labeled-sites=a/seed0", 180.0)
    finished("eyes/cps/seed0", 1.0)
    (tmp_path / "eyes/cps/seed0/results.json").write_text('{"half')  # says nothing
    assert known_seconds(tmp_path) == {
        "eyes": 120.0,
        "eyes/lower": 60.0,
        "eyes/denoise": 180.0,
    }
    names = ["eyes/lower/seed1", "eyes/denoise/labeled-sites=b/seed0", "eyes/mutual/seed0"]
    open_ = [Job(name, {}) for name in names]
    done = Job("eyes/lower/seed0", {})
    text = estimate([done, *open_], open_, tmp_path, 2)
    # 60 + 180 + 120, the last by the set's mean
    assert "4 runs, 1 of them finished, 3 to do." in text
    assert "About 6 min of rounds for 3 of them" in text
    assert "3 min with 2 side by side" in text
    unknown = [Job("knees/lower/seed0", {})]
    assert "No run of knees is finished" in estimate(unknown, unknown, tmp_path, 2)


def test_a_dry_call_lists_the_runs_of_a_set_and_starts_none(tmp_path: Path) -> None:
    for name in ("dry", "common"):
        write_experiment(tmp_path / "tiny", name)
    files = sorted(str(path) for path in (tmp_path / "tiny").glob("*.toml"))
    assert len(files) == 3, "with the federation"
    status, text = app(run.main, *files, "--out", str(tmp_path / "runs"), "--dry")
    assert (status, text.splitlines()[-1]) == (0, "tiny/dry/seed0")
    assert "1 runs, 0 of them finished" in text
    assert not (tmp_path / "runs").exists()


def _digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["weights_sha256"])


def _rounds(folder: Path) -> int:
    """Return the rounds that are written and checkpointed, or nearly."""
    path = folder / "rounds.jsonl"
    there = path.is_file() and any((folder / "checkpoint").glob("*.safetensors"))
    return len(path.read_text().splitlines()) if there else 0


def _writers(folder: Path) -> list[int]:
    """Return the processes that were told to write to a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def _wait(true: object, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]  # a function without arguments
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


def test_only_takes_whole_parts_of_a_name(tmp_path: Path) -> None:
    grid = "\n[grid]\nlabeled-sites = ['a', 'a,b']\n'denoise.mu' = [0.5, 0.55]\n"
    path = write_experiment(tmp_path, "mu", grid)
    jobs = jobs_of(path, [1, 10])

    def chosen(part: str) -> int:
        return sum(matches(job, part) for job in jobs)

    assert chosen("") == chosen("mu") == len(jobs) == 8
    assert chosen("labeled-sites=a") == chosen("labeled-sites=a,b") == chosen("seed1") == 4
    assert chosen("denoise.mu=0.5") == 4
    assert chosen("labeled-sites=a+b,denoise.mu=0.5") == 2
    assert chosen("labeled-sites=a/seed10") == chosen("mu/seed1/denoise.mu=0.5") == 2
    assert chosen("labeled") == chosen("labeled-sites=a/seed2") == 0


def test_jobs_that_cannot_run_are_named_before_any_runs(tmp_path: Path) -> None:
    good = write_experiment(tmp_path, "good")
    out = ("--out", str(tmp_path / "runs"))
    for name, keys, part in (
        ("typo", {"round": 3}, "Unknown key 'round'"),
        ("far", {"federation": "nowhere.toml"}, "there is no file"),
        ("late", {"method": "denoise", "denoise.warmup-rounds": 9}, "leaves no round"),
    ):
        bad = write_experiment(tmp_path, name, **keys)
        status, text = app(run.main, str(good), str(bad), *out)
        flat = " ".join(text.split())
        assert (status, part in flat, f"{tmp_path.name}/{name}/seed0" in flat) == (1, True, True)
    status, text = app(run.main, str(good), str(good), *out)
    assert (status, "More than one run has this name" in " ".join(text.split())) == (1, True)
    assert not (tmp_path / "runs").exists()


def test_a_run_with_other_keys_or_damaged_results_is_not_taken_for_finished(
    tmp_path: Path,
) -> None:
    path, runs = write_experiment(tmp_path, "lower"), tmp_path / "runs"
    (job,) = jobs_of(path, [0])
    folder = runs / job.name
    assert run.run_job(job, runs, run.Engine.LOOPBACK) == 0
    assert open_jobs([job], runs) == []
    moved = Job(job.name, {**job.config, "cache-dir": "elsewhere"})
    assert open_jobs([moved], runs) == [], "where files are does not matter"
    changed = Job(job.name, {**job.config, "lr": 0.5})
    with pytest.raises(ConfigError, match=r"lr = .* \(now 0.5\).*another --out"):
        open_jobs([changed], runs)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(f"of-old = 1\n{text}")
    with pytest.raises(ConfigError, match=r"config\.toml does not tell.*of-old.*another --out"):
        open_jobs([job], runs)
    (folder / "config.toml").write_text(text)
    (folder / "results.json").write_text('{"half')
    assert open_jobs([job], runs) == [job]
