"""Run experiment files: `python -m experiments.run FILE... --seeds 3 --engine loopback|ray`.

Finished runs are skipped and interrupted ones go on, so the same command can be given again after
a crash. Nothing is overwritten: what a run left that was interrupted before its first checkpoint is
set aside. With `--engine loopback` runs go side by side as Ray tasks, on one machine or on a
cluster (`RAY_ADDRESS`); with `--engine ray` one after the other, each a `flwr run`.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer

from experiments.cost import estimate
from experiments.grid import Job, is_experiment, jobs_of, matches
from experiments.open_jobs import check_jobs, open_jobs
from fedssl.cli.options import friendly_errors
from fedssl.errors import ConfigError
from fedssl.report.page import write_report

__all__ = ["Engine", "main", "run_job"]

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


class Engine(StrEnum):
    """Where a run's sites compute."""

    LOOPBACK = "loopback"
    RAY = "ray"


def main(
    files: Annotated[list[Path], typer.Argument(help="Experiment files; others are skipped.")],
    seeds: Annotated[int, typer.Option(min=1, help="Run seeds 0 .. N-1.")] = 1,
    all_folds: Annotated[bool, typer.Option("--all-folds", help="Cross-validate.")] = False,
    only: Annotated[
        str, typer.Option(help="Only runs with this in their name, e.g. labeled-sites=hrf/seed1.")
    ] = "",
    engine: Annotated[Engine, typer.Option(help="loopback or ray (flwr run).")] = Engine.LOOPBACK,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=0, help="Runs side by side; 0: one per CPU.")] = 0,
    dry: Annotated[bool, typer.Option("--dry", help="Print the runs and what they take.")] = False,
) -> None:
    """Run every combination of the files' grids with every seed."""
    with friendly_errors():
        chosen = [file for file in files if is_experiment(file)]
        if not chosen:
            raise ConfigError(
                f"{', '.join(map(str, files))}: nothing to run. Federations and common*.toml are "
                "passed over; give files with the keys of a run."
            )
        todo = [job for file in chosen for job in jobs_of(file, range(seeds), all_folds=all_folds)]
        todo = [job for job in todo if matches(job, only)]
        if not todo:
            raise ConfigError(f"--only {only!r} leaves no run; --dry without it lists the names.")
        check_jobs(todo)
        failed = _run_open(todo, out, engine, jobs or os.cpu_count() or 1, dry=dry)
    for name in failed:
        typer.secho(f"Failed: {name}; see {out / name}.log", err=True, fg="red")
    raise typer.Exit(1 if failed else 0)


def _run_open(todo: list[Job], out: Path, engine: Engine, jobs: int, *, dry: bool) -> list[str]:
    """Run what is not finished; return the names of what failed."""
    open_ = open_jobs(todo, out)
    workers = 1 if engine == Engine.RAY else jobs
    typer.echo(estimate(todo, open_, out, workers))
    if dry:
        for job in open_:
            typer.echo(job.name)
        return []
    _write_missing_reports([out / job.name for job in todo if job not in open_])
    if engine == Engine.RAY or (workers == 1 and not os.environ.get("RAY_ADDRESS")):
        return [job.name for job in open_ if run_job(job, out, engine) != 0]
    return _side_by_side(open_, out, workers)


def _write_missing_reports(finished: list[Path]) -> None:
    """Write the reports of runs that were killed behind their results."""
    for folder in finished:
        if not (folder / "report.html").is_file():
            typer.echo(f"report of {folder}")
            try:
                write_report(folder)
            except Exception as error:  # a page about one run must not keep others from running
                typer.secho(f"No report of {folder}: {error!r}", err=True, fg="yellow")


def run_job(job: Job, out: Path, engine: Engine) -> int:
    """Run one job in a process of its own and return its exit status; 1 if it cannot start.

    Its output goes to `<folder>.log`. It goes on from a checkpoint, and ends with this process.
    """
    try:
        return _run_process(job, out, engine)
    except OSError as error:
        typer.echo(f"FAILED {job.name}: {error}")
        return 1


def _run_process(job: Job, out: Path, engine: Engine) -> int:
    folder = out / job.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    verb = "run" if engine == Engine.RAY else "simulate"
    command = [sys.executable, "-m", "fedssl.cli", verb, "--out", str(folder)]
    command += [part for k, v in job.config.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    begun = time.monotonic()
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        if not _lock(log):
            typer.echo(f"PASSED OVER {job.name}: another command runs it")
            return 1
        if (folder / "checkpoint").is_dir() and any((folder / "checkpoint").iterdir()):
            command.append("--resume")
        elif folder.exists():
            _set_aside(folder)
        status = subprocess.run(  # noqa: S603 -- our own arguments
            command,
            stdout=log,
            stderr=log,
            check=False,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ).returncode
    typer.echo(f"{'done' if status == 0 else 'FAILED'} {job.name} {time.monotonic() - begun:.0f} s")
    return status


def _lock(log: TextIO) -> bool:
    """Claim a run by its log until it ends; return False if another process has."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _set_aside(folder: Path) -> None:
    """Rename what a run left that has no checkpoint to go on from."""
    for number in itertools.count(1):
        aside = folder.with_name(f"{folder.name}.interrupted-{number}")
        if not aside.exists():
            folder.rename(aside)
            return


def _die_with_parent() -> None:
    """Have Linux end this process with its parent, so that a killed runner leaves no run behind.

    Two processes would else write to one folder when the command is given again.
    """
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _side_by_side(jobs: list[Job], out: Path, workers: int) -> list[str]:
    if not jobs:
        return []
    import ray

    ray.init(
        num_cpus=None if os.environ.get("RAY_ADDRESS") else workers,
        include_dashboard=False,
        log_to_driver=True,
    )
    remote = ray.remote(num_cpus=1, max_retries=0)(run_job)
    pending = {remote.remote(job, out.resolve(), Engine.LOOPBACK): job for job in jobs}
    failed = []
    for task, job in pending.items():
        try:
            status = ray.get(task)
        except ray.exceptions.RayError as error:  # a worker was killed; the others go on
            typer.echo(f"FAILED {job.name}: {str(error).splitlines()[0]}")
            status = 1
        failed += [job.name] * (status != 0)
    ray.shutdown()
    return failed


if __name__ == "__main__":
    typer.run(main)
