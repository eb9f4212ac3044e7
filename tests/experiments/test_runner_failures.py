"""The runner: what is chosen, and runs that fail, each alone."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_experiments import app, write_experiment

from experiments import run
from experiments.grid import jobs_of, matches

ROOT = Path(__file__).parents[2]


def test_a_run_that_another_command_runs_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = jobs_of(write_experiment(tmp_path, "lower"), [0])
    folder = tmp_path / "runs" / job.name
    folder.mkdir(parents=True)
    (folder / "begun").touch()
    with folder.with_name("seed0.log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert run.run_job(job, tmp_path / "runs", run.Engine.LOOPBACK) == 1
    assert "another command runs it" in capsys.readouterr().out
    assert (folder / "begun").is_file(), "its folder stays where it is"


def test_only_takes_values_as_the_file_spells_them(tmp_path: Path) -> None:
    grid = "\n[grid]\n'denoise.mu' = [0.5, 1e-3]\n'quality.guide' = [false, true]\n"
    jobs = jobs_of(write_experiment(tmp_path, "mu", grid), [0])
    for part in ("denoise.mu=1e-3", "denoise.mu=0.001", "quality.guide=false"):
        assert sum(matches(job, part) for job in jobs) == 2, part
    assert not any(matches(job, "denoise.mu=1e-2") for job in jobs)
    slashed = "\n[grid]\ndata-root = ['/here/a', '/there/a']\n"
    jobs = jobs_of(write_experiment(tmp_path, "roots", slashed), [0])
    assert sum(matches(job, "data-root=/here/a") for job in jobs) == 1


def test_a_run_that_cannot_start_fails_alone(tmp_path: Path) -> None:
    blocked, good = (write_experiment(tmp_path, name) for name in ("blocked", "good"))
    (tmp_path / "runs" / tmp_path.name).mkdir(parents=True)
    (tmp_path / "runs" / tmp_path.name / "blocked").write_text("a file where a folder should be")
    arguments = (str(blocked), str(good), "--out", str(tmp_path / "runs"), "--jobs", "1")
    status, text = app(run.main, *arguments)
    assert (status, f"FAILED {tmp_path.name}/blocked/seed0" in text) == (1, True)
    folder = tmp_path / "runs" / tmp_path.name / "good/seed0"
    assert (folder / "results.json").is_file()
    (folder / "report.html").unlink()  # as a kill behind the results leaves it
    app(run.main, *arguments)
    assert (folder / "report.html").is_file()


_KILLED_WORKER = """
import os, signal
from pathlib import Path
from experiments import run
from experiments.grid import Job

def killed_by_name(job, out, engine):
    if "killed" in job.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0

run.run_job = killed_by_name
jobs = [Job(f"set/{name}/seed0", {}) for name in ("first", "killed", "last")]
print(run._side_by_side(jobs, Path(), 1))
"""


def test_a_killed_worker_fails_its_run_alone() -> None:
    command = [sys.executable, "-c", _KILLED_WORKER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FAILED set/killed/seed0" in done.stdout
    assert done.stdout.splitlines()[-1] == "['set/killed/seed0']"


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, "sites", "\n[grid]\nlabeled-sites = ['north']\n")
    (job,) = jobs_of(path, [0])
    job.config["tracking"], job.config["image-size"] = "", "32"
    assert run.run_job(job, tmp_path / "runs", run.Engine.LOOPBACK) == 0
