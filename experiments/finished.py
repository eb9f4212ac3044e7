"""Finished runs, read from a results folder of experiments.run or from a folder of records."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import typer

from experiments.keys import own_keys
from fedssl.config import Scalar
from fedssl.errors import DataError

__all__ = [
    "RECORDS",
    "Cases",
    "Finished",
    "Place",
    "finished_runs",
    "read_records",
    "read_results",
    "read_run",
    "run_folders",
]

RECORDS = Path("experiments/records")
"""Where the records of this repository are, seen from its root."""

Cases = dict[str, dict[str, float]]
"""Site -> case -> mean Dice over classes."""


class Place(NamedTuple):
    """Which run it is, in the order in which runs are listed.

    Args:
        set: name of the experiments' folder.
        experiment: file stem, e.g. `denoise`.
        point: grid point, e.g. `labeled-sites=hrf`; '' without a grid.
        fold: `fold<j>` where that was the test split; '' for the file's own.
        seed: run seed.
    """

    set: str
    experiment: str
    point: str
    fold: str
    seed: int

    @property
    def name(self) -> str:
        """The run's folder below the results."""
        parts = (self.set, self.experiment, self.point, self.fold, f"seed{self.seed}")
        return "/".join(part for part in parts if part)


class Finished(NamedTuple):
    """What a run left.

    Args:
        results: its `results.json`.
        cases: Dice of its test cases.
        config: its keys that differ from the defaults; none if they cannot be read.
    """

    results: dict[str, Any]
    cases: Cases
    config: dict[str, Scalar]


def finished_runs(root: Path) -> dict[Place, Finished]:
    """Return every finished run in a folder of either kind.

    Raises:
        DataError: there is none, or a file is damaged.
    """
    if any(root.glob("*.jsonl")):
        records = read_records(root)
        return {
            place: Finished(record["results"], record["cases"], record["config"])
            for place, record in records.items()
        }
    return {place: read_run(folder) for place, folder in run_folders(root).items()}


def run_folders(root: Path) -> dict[Place, Path]:
    """Return the folders `<set>/<experiment>[/<point>][/fold<j>]/seed<k>/` with results.

    A run whose results are damaged is not finished: it is named on stderr and passed over.

    Raises:
        DataError: there is none.
    """
    found: dict[Place, Path] = {}
    for path in sorted(root.glob("**/seed*/results.json")):
        numbered = re.fullmatch(r"seed(\d+)", path.parent.name)
        set_, experiment, *rest = [*path.parent.parent.relative_to(root).parts, "", ""]
        if numbered is None or not experiment:
            continue
        try:
            read_results(path)
        except DataError as error:
            typer.secho(f"Passed over: {error}", err=True, fg="yellow")
            continue
        folds = [part for part in rest if re.fullmatch(r"fold\d+", part)]
        point = "/".join(part for part in rest if part and part not in folds)
        found[Place(set_, experiment, point, "".join(folds), int(numbered[1]))] = path.parent
    if not found:
        raise DataError(
            f"{root} holds no finished run as <set>/<experiment>/seed<k>/results.json. Give the "
            "--out of experiments.run, not a set's folder below it. Tables are also made from a "
            "folder of records, <set>.jsonl."
        )
    return found


def read_results(path: Path) -> dict[str, Any]:
    """Return a `results.json`.

    Raises:
        DataError: it is none; the run is to be run again.
    """
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        results["sites"].keys()
        float(results["wall_seconds"])
        str(results["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}). Give the command of the run again; what is damaged "
            "is written anew."
        ) from None
    return results


def read_run(folder: Path) -> Finished:
    """Return what a run left in its folder.

    The cases have the digits that records keep, so that tables of both are the same.

    Raises:
        DataError: a file is damaged.
    """
    cases = {
        path.parent.name: _case_dice(path) for path in sorted(folder.glob("sites/*/cases.jsonl"))
    }
    config: dict[str, Scalar] = {}
    with contextlib.suppress(DataError):  # of another version; its numbers still count
        config = own_keys(folder / "config.toml")
    return Finished(read_results(folder / "results.json"), cases, config)


def read_records(folder: Path, set_: str = "*") -> dict[Place, dict[str, Any]]:
    """Return the records of a folder by run; those of one set if it is named.

    Raises:
        DataError: a line is damaged, or two lines contradict each other.
    """
    found: dict[Place, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{set_}.jsonl")):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                record = json.loads(line.decode("utf-8"))
                place = _place(path.stem, record)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {number} is no record of a run ({error!r}). Delete the line and "
                    "record the run again, or take the file from the repository."
                ) from None
            digest = record["results"]["weights_sha256"]
            if place in found and found[place]["results"]["weights_sha256"] != digest:
                raise DataError(
                    f"{path}, line {number} is a second record of {place.name}, with other weights "
                    f"({digest[:12]}). Delete one of the two lines."
                )
            found[place] = record
    return found


def _place(set_: str, record: dict[str, Any]) -> Place:
    """Return which run a record is of; raise KeyError, TypeError or AttributeError if of none."""
    for part in (record["config"], record["results"]["sites"], *record["cases"].values()):
        part.keys()
    record["results"]["weights_sha256"][:12]
    if not isinstance(record["seed"], int):
        raise TypeError(f"seed is {record['seed']!r}")
    return Place(set_, *(record[field] for field in Place._fields[1:]))


def _case_dice(path: Path) -> dict[str, float]:
    lines = _json_lines(path)
    means = {line["name"]: sum(line["dice"].values()) / len(line["dice"]) for line in lines}
    return {name: round(mean, 4) for name, mean in means.items()}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Delete the run and run it again.") from None
