"""Rerun a finished row and compare: `python -m experiments.rerun RUN`.

RUN is the folder of a run, or the name of a recorded one, e.g.
`vessels/denoise/labeled-sites=hrf/seed0`. Its own configuration is run again, into a scratch
folder, on the engine it ran on. Equal `weights_sha256` ends with status 0; otherwise both digests
are printed, with what is known to differ between then and now, and the status is 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.finished import RECORDS, read_records, read_results
from experiments.keys import ROOT
from experiments.record import commit, cpu
from fedssl.cli.options import (
    SetOption,
    friendly_errors,
    parse_assignments,
    read_experiment,
)
from fedssl.config import Scalar
from fedssl.errors import CheckpointError, ConfigError, did_you_mean
from fedssl.results import config_toml

__all__ = ["main"]

_VERBS = {"loopback": "simulate", "ray": "run"}


@dataclass(frozen=True, slots=True)
class _First:
    """The run as it was.

    Args:
        config: flat keys.
        results: its `results.json`.
        machine: `cpu` and `commit`, where they were recorded.
    """

    config: dict[str, Scalar]
    results: dict[str, Any]
    machine: dict[str, str]


def main(
    run: Annotated[str, typer.Argument(help="Folder of a finished run, or a recorded one's name.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder for the second run; default: a scratch one.")
    ] = None,
    records: Annotated[Path, typer.Option(help="Folder of the records.")] = RECORDS,
    assignments: SetOption = None,
) -> None:
    """Run a finished row again and compare the digests of its weights."""
    with friendly_errors():
        changed = parse_assignments(assignments or [])
        first = _of_folder(Path(run)) if Path(run).is_dir() else _of_record(run, records)
        engine = str(first.results["engine"])
        if engine not in _VERBS:
            raise CheckpointError(
                f"{run} ran on engine {engine!r}; only runs of {' and '.join(_VERBS)} can be "
                "repeated from here."
            )
        config = {**first.config, **changed, "resume": False, "tracking": ""}
        config["federation"] = _federation(run, config, given="federation" in changed)
    with tempfile.TemporaryDirectory(prefix="fedssl-rerun-") as scratch:
        second = _run_again(config, _VERBS[engine], Path(scratch), out)
    ours, theirs = second["weights_sha256"], first.results["weights_sha256"]
    if ours == theirs:
        typer.echo(f"same {ours}")
        return
    typer.secho("The weights differ.", err=True, fg="red")
    typer.echo(f"first  {theirs}\nsecond {ours}")
    now = {**second["versions"], "cpu": cpu(), "commit": commit()}
    for line in _differences({**first.results["versions"], **first.machine}, now):
        typer.echo(line)
    raise typer.Exit(1)


def _run_again(
    config: dict[str, Scalar], verb: str, scratch: Path, out: Path | None
) -> dict[str, Any]:
    """Run a configuration and return its `results.json`."""
    folder, file = out or scratch / "run", scratch / "config.toml"
    file.write_text(config_toml(config), encoding="utf-8")
    command = [sys.executable, "-m", "fedssl.cli", verb, "--config", str(file)]
    command += ["--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 -- our own arguments
    if done.returncode != 0:
        typer.secho(f"The run failed with status {done.returncode}.", err=True, fg="red")
        raise typer.Exit(2)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def _of_folder(run: Path) -> _First:
    path = run / "results.json"
    if not path.is_file() or not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{run} holds no finished run; it needs results.json and config.toml, as a row of "
            "experiments.run has them."
        )
    results = read_results(path)
    if lacking := {"engine", "versions"} - results.keys():
        raise CheckpointError(f"{path} is damaged: no {sorted(lacking)}. Run the row again.")
    return _First(read_experiment(run / "config.toml"), results, {})


def _of_record(name: str, folder: Path) -> _First:
    recorded = {place.name: record for place, record in read_records(folder).items()}
    record = recorded.get(name.strip("/"))
    if record is None:
        raise CheckpointError(
            f"{name!r} is neither the folder of a finished run nor one of the {len(recorded)} runs "
            f"recorded in {folder}.{did_you_mean(name, recorded)} A recorded run is named as its "
            "folder below the results was, e.g. vessels/denoise/labeled-sites=hrf/seed0; --records "
            "looks in another folder."
        )
    machine = {key: str(record.get(key, "")) for key in ("cpu", "commit")}
    return _First(record["config"], record["results"], machine)


def _federation(run: str, config: dict[str, Scalar], *, given: bool) -> str:
    """Return the federation of a configuration; recorded files start at the repository."""
    from fedssl.config import RunConfig
    from fedssl.data.synthetic import SYNTHETIC

    name = str(config.get("federation", RunConfig().federation))
    if given or name in SYNTHETIC:
        return name
    if not (ROOT / name).is_file():
        raise ConfigError(
            f"The federation of {run}, {ROOT / name}, is not there. Give its file with --set "
            "federation=PATH."
        )
    return str(ROOT / name)


def _differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return one line for each version, the CPU and the commit that is not what it was."""
    return [
        f"{name}: {then.get(name) or 'unknown'} then, {now.get(name) or 'unknown'} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


if __name__ == "__main__":
    typer.run(main)
