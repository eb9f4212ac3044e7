"""Keep finished runs in the repository: `python -m experiments.record runs`.

Every run becomes one line of `experiments/records/<set>.jsonl`: what `experiments.table` needs for
its row, and what `experiments.rerun` needs to compute it again. Records of several machines are
merged line by line. No path of a machine is written.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.finished import RECORDS, Place, read_records, read_run, run_folders
from experiments.keys import ROOT, own_keys
from fedssl.cli.options import friendly_errors
from fedssl.memory import write_atomically

__all__ = ["commit", "cpu", "main"]


_OF_A_TIME = ("wall_seconds", "finished")
"""Results that an identical run has of its own."""


def main(
    runs: Annotated[Path, typer.Argument(help="Results folder of experiments.run.")],
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = RECORDS,
) -> None:
    """Record every finished run; one that is recorded with the same results stays as it is."""
    with friendly_errors():
        by_set: dict[str, dict[Place, Path]] = defaultdict(dict)
        for place, folder in run_folders(runs).items():
            by_set[place.set][place] = folder
        for set_, folders in by_set.items():
            new, replaced = _record_set(out, set_, folders)
            same = len(folders) - new - replaced
            typer.echo(f"{set_}: {new} new, {replaced} replaced, {same} there already")


def commit() -> str:
    """Return the commit of this checkout, with '+' if what decides results has changes.

    Without a checkout, or without git, it is ''.
    """
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "fedssl", "experiments/*.toml")
    return f"{head}+" if head and changed else head


def cpu() -> str:
    """Return the model of this machine's CPU."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.is_file() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _record_set(out: Path, set_: str, folders: dict[Place, Path]) -> tuple[int, int]:
    """Add runs to a set's file; return how many are new, and how many replaced."""
    records = read_records(out, set_)
    stamp = {"commit": commit(), "cpu": cpu()}
    new = replaced = 0
    for place, folder in folders.items():
        record = {**_record(place, folder), **stamp}
        before = records.get(place)
        if before is not None and _found(before) == _found(record):
            continue
        if before is not None:
            typer.echo(f"replaced {place.name}: {_digest(before)} before, {_digest(record)} now")
        new, replaced = (new + 1, replaced) if before is None else (new, replaced + 1)
        records[place] = record
    if new or replaced:
        lines = [_line(record) for _, record in sorted(records.items())]
        write_atomically(out / f"{set_}.jsonl", "".join(lines).encode())
    return new, replaced


def _record(place: Place, folder: Path) -> dict[str, Any]:
    run = read_run(folder)
    return {
        **dict(zip(Place._fields[1:], place[1:], strict=True)),
        "config": own_keys(folder / "config.toml"),
        "results": run.results,
        "cases": run.cases,
    }


def _found(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a run found, without when, how long it took and where it was recorded."""
    results = {k: v for k, v in record["results"].items() if k not in _OF_A_TIME}
    return {"config": record["config"], "results": results, "cases": record["cases"]}


def _digest(record: dict[str, Any]) -> str:
    return str(record["results"]["weights_sha256"])[:12]


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 -- our own arguments
        [git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    typer.run(main)
