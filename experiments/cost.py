"""What a set of runs will take, judged by the runs that are finished."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.finished import read_results
from experiments.grid import Job
from fedssl.errors import DataError

__all__ = ["estimate", "known_seconds"]


def known_seconds(out: Path) -> dict[str, float]:
    """Return the mean wall seconds of the finished runs below `out`.

    Returns:
        By `<set>/<experiment>`, and by `<set>` for experiments that were never run.
    """
    collected: dict[str, list[float]] = defaultdict(list)
    for path in sorted(out.glob("**/seed*/results.json")):
        set_, experiment, *_ = path.relative_to(out).parts
        with contextlib.suppress(DataError):  # a damaged one says nothing, and is run again
            seconds = float(read_results(path)["wall_seconds"])
            collected[set_].append(seconds)
            collected[f"{set_}/{experiment}"].append(seconds)
    return {name: sum(values) / len(values) for name, values in collected.items()}


def estimate(todo: Sequence[Job], open_: Sequence[Job], out: Path, side_by_side: int) -> str:
    """Return what is to be run and about how long it takes, in two or three lines.

    Args:
        todo: all runs that were asked for.
        open_: those among them that are not finished.
        out: results folder.
        side_by_side: runs at a time.
    """
    known = known_seconds(out)
    judged = [s for job in open_ if (s := _seconds(job, known)) is not None]
    lines = [f"{len(todo)} runs, {len(todo) - len(open_)} of them finished, {len(open_)} to do."]
    if judged:
        total = sum(judged)
        lines.append(
            f"About {_duration(total)} of rounds for {len(judged)} of them, by the finished runs "
            f"of their sets; {_duration(total / max(1, min(side_by_side, len(judged))))} with "
            f"{side_by_side} side by side. Preparing and scoring the images come on top."
        )
    if len(judged) < len(open_):
        sets = ", ".join(sorted(_sets(j for j in open_ if _seconds(j, known) is None)))
        lines.append(
            f"No run of {sets} is finished, so nothing tells the time of the other "
            f"{len(open_) - len(judged)}; their files' headers give an idea."
        )
    return "\n".join(lines)


def _seconds(job: Job, known: dict[str, float]) -> float | None:
    set_, experiment, *_ = job.name.split("/")
    return known.get(f"{set_}/{experiment}", known.get(set_))


def _sets(jobs: Iterable[Job]) -> set[str]:
    return {job.name.split("/")[0] for job in jobs}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
