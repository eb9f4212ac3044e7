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
from fedssl.cli.options import friendly_errors, read_experiment
from fedssl.config import RunConfig, Scalar, flatten
from fedssl.errors import ConfigError, DataError
from fedssl.memory import write_atomically
from fedssl.methods import load_config

__all__ = ["ROOT", "commit", "cpu", "main"]

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

_OF_A_MACHINE = frozenset({"out", "cache-dir", "data-root", "resume", "tracking"})
"""Keys that decide where a run's files are, and nothing that it computes."""


def main(
    runs: Annotated[Path, typer.Argument(help="Results folder of experiments.run.")],
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = RECORDS,
) -> None:
    """Record every finished run; one that is recorded with the same weights stays as it is."""
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
        ours, theirs = _digest(record), _digest(records.get(place))
        if ours == theirs:
            continue
        if theirs:
            typer.echo(f"replaced {place.name}: {theirs[:12]} before, {ours[:12]} now")
        new, replaced = (new, replaced + 1) if theirs else (new + 1, replaced)
        records[place] = record
    if new or replaced:
        lines = [_line(record) for _, record in sorted(records.items())]
        write_atomically(out / f"{set_}.jsonl", "".join(lines).encode())
    return new, replaced


def _record(place: Place, folder: Path) -> dict[str, Any]:
    results, cases = read_run(folder)
    return {
        **dict(zip(Place._fields[1:], place[1:], strict=True)),
        "config": _own_keys(folder / "config.toml"),
        "results": results,
        "cases": cases,
    }


def _digest(record: dict[str, Any] | None) -> str:
    return str(record["results"]["weights_sha256"]) if record else ""


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _own_keys(path: Path) -> dict[str, Scalar]:
    """Return the keys of a run's configuration that differ from the defaults."""
    if not path.is_file():
        raise DataError(f"{path} is missing, so the run cannot be recorded. Run it again.")
    flat = read_experiment(path)
    try:
        defaults = flatten(load_config({"method": flat.get("method", "")}))
    except ConfigError as error:
        raise DataError(f"{path} is of another version of fedssl: {error}") from None
    defaults["method"] = RunConfig().method
    return {
        key: _portable(value)
        for key, value in flat.items()
        if key not in _OF_A_MACHINE and value != defaults.get(key)
    }


def _portable(value: Scalar) -> Scalar:
    """Return a path relative to the repository; of one outside, only the name."""
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


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
