"""What is to be run: jobs that can run at all, and that are not finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer

from experiments.finished import read_results
from experiments.grid import Job
from experiments.keys import changed_keys
from fedssl.errors import ConfigError, DataError
from fedssl.methods import load_config

__all__ = ["check_jobs", "open_jobs"]


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise `ConfigError` where a job cannot run, before any of them does."""
    problems: dict[str, str] = {}
    for job in jobs:
        try:
            federation = load_config(dict(job.config)).federation
        except ConfigError as error:
            problems.setdefault(str(error), job.name)
            continue
        if federation.endswith(".toml") and not Path(federation).is_file():
            problems.setdefault(f"Key 'federation': there is no file {federation}.", job.name)
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        text = "More than one run has this name: give each file once, and each value of a grid."
        problems[text] = twice[0]
    if problems:
        lines = [f"{name}: {problem}" for problem, name in problems.items()]
        raise ConfigError("\n".join([*lines, "Nothing was run."]))


def open_jobs(jobs: Sequence[Job], out: Path) -> list[Job]:
    """Return the jobs that are not finished below `out`.

    Raises:
        ConfigError: one is finished with other keys than its file has now.
    """
    return [job for job in jobs if not _is_finished(job, out / job.name)]


def _is_finished(job: Job, folder: Path) -> bool:
    if not (folder / "results.json").is_file():
        return False
    try:
        read_results(folder / "results.json")
    except DataError as error:
        typer.secho(f"Not finished: {error}", err=True, fg="yellow")
        return False
    changed = changed_keys(job.config, folder / "config.toml")
    if changed:
        keys = ", ".join(f"{k} = {was!r} (now {now!r})" for k, (was, now) in changed.items())
        raise ConfigError(
            f"{folder} was run with other keys than its file has now: {keys}. Give another --out, "
            "or move the folder away to run it again."
        )
    return True
