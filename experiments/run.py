"""Run experiment files: `python -m experiments.run FILE... --seeds 3 --engine loopback|ray`.

Finished runs are skipped and interrupted ones go on, so the same command can be given again after
a crash. Nothing is overwritten. With `--engine loopback` runs go side by side as Ray tasks, on one
machine or on a cluster (`RAY_ADDRESS`); with `--engine ray` one after the other, each a `flwr run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from experiments.grid import Job, jobs_of
from fedssl.cli.options import friendly_errors

__all__ = ["main"]


class Engine(StrEnum):
    """Where a run's sites compute."""

    LOOPBACK = "loopback"
    RAY = "ray"


def main(
    files: Annotated[list[Path], typer.Argument(help="Experiment files (TOML).")],
    seeds: Annotated[int, typer.Option(help="Run seeds 0 .. N-1.")] = 1,
    engine: Annotated[Engine, typer.Option(help="loopback or ray (flwr run).")] = Engine.LOOPBACK,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(help="Runs side by side; 0: one per CPU.")] = 0,
) -> None:
    """Run every combination of the files' grids with every seed."""
    with friendly_errors():
        todo = [job for file in files for job in jobs_of(file, range(seeds))]
    open_ = [job for job in todo if not (out / job.name / "results.json").is_file()]
    typer.echo(f"{len(todo)} runs, {len(todo) - len(open_)} of them finished.")
    if engine == Engine.RAY:
        failed = [job.name for job in open_ if _run(job, out, engine) != 0]
    else:
        failed = _side_by_side(open_, out, jobs or os.cpu_count() or 1)
    for name in failed:
        typer.secho(f"Failed: {name}; see {out / name}.log", err=True, fg="red")
    raise typer.Exit(1 if failed else 0)


def _run(job: Job, out: Path, engine: Engine) -> int:
    """Run one job in a process of its own; its output goes to `<folder>.log`."""
    folder = out / job.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    verb = "run" if engine == Engine.RAY else "simulate"
    command = [sys.executable, "-m", "fedssl.cli", verb, "--out", str(folder)]
    command += [part for k, v in job.config.items() for part in ("--set", f"{k}={_toml(v)}")]
    if (folder / "checkpoint").is_dir():
        command.append("--resume")
    begun = time.monotonic()
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode  # noqa: S603
    typer.echo(f"{'done' if status == 0 else 'FAILED'} {job.name} {time.monotonic() - begun:.0f} s")
    return status


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _side_by_side(jobs: list[Job], out: Path, workers: int) -> list[str]:
    if not jobs:
        return []
    import ray

    ray.init(
        num_cpus=None if os.environ.get("RAY_ADDRESS") else workers,
        include_dashboard=False,
        log_to_driver=True,
    )
    remote = ray.remote(num_cpus=1, max_retries=0)(_run)
    pending = {remote.remote(job, out.resolve(), Engine.LOOPBACK): job for job in jobs}
    failed = [job.name for task, job in pending.items() if ray.get(task) != 0]
    ray.shutdown()
    return failed


if __name__ == "__main__":
    typer.run(main)
