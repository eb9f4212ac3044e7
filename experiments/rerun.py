"""Rerun a finished row and compare: `python -m experiments.rerun RUN_DIR`.

The row's own config.toml is run again, into a scratch folder, on the engine it ran on. Equal
`weights_sha256` ends with status 0; otherwise both digests are printed and the status is 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fedssl.cli.options import friendly_errors
from fedssl.errors import CheckpointError

__all__ = ["main"]

_VERBS = {"loopback": "simulate", "ray": "run"}


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option(help="New folder for the second run; default: a scratch one.")
    ] = None,
) -> None:
    """Run a finished row again and compare the digests of its weights."""
    with friendly_errors():
        first = _results(run)
        engine = str(first["engine"])
        if engine not in _VERBS:
            raise CheckpointError(
                f"{run} ran on engine {engine!r}; only runs of {' and '.join(_VERBS)} can be "
                "repeated from here."
            )
    with tempfile.TemporaryDirectory(prefix="fedssl-rerun-") as scratch:
        folder = out or Path(scratch) / "run"
        command = [sys.executable, "-m", "fedssl.cli", _VERBS[engine]]
        command += ["--config", str(run / "config.toml"), "--out", str(folder)]
        command += ["--set", "resume=false", "--set", "tracking="]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 -- our own arguments
        if done.returncode != 0:
            typer.secho(f"The run failed with status {done.returncode}.", err=True, fg="red")
            raise typer.Exit(2)
        second = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if first["weights_sha256"] == second["weights_sha256"]:
        typer.echo(f"same {first['weights_sha256']}")
        return
    typer.secho("The weights differ.", err=True, fg="red")
    typer.echo(f"first  {first['weights_sha256']}\nsecond {second['weights_sha256']}")
    for line in _other_versions(first["versions"], second["versions"]):
        typer.echo(line)
    raise typer.Exit(1)


def _results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    if not path.is_file() or not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{run} holds no finished run; it needs results.json and config.toml, as a row of "
            "experiments.run has them."
        )
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}. Run the row again.") from None
    return results


def _other_versions(then: dict[str, str], now: dict[str, str]) -> list[str]:
    names = sorted({*then, *now})
    return [
        f"{name}: {then.get(name)} then, {now.get(name)} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


if __name__ == "__main__":
    typer.run(main)
