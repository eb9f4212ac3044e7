"""Experiments so small that a run takes seconds, and a way to call the commands on them."""

from __future__ import annotations

from pathlib import Path

import typer
from tiny_federations import TINY, write_federation
from typer.testing import CliRunner

from fedssl.config import Scalar
from fedssl.results import config_toml


def app(main: object, *arguments: str) -> tuple[int, str]:
    """Call a command's function as its module does; return the status and what it printed."""
    command = typer.Typer()
    command.command()(main)  # type: ignore[arg-type]  # any function will do
    result = CliRunner().invoke(command, list(arguments))
    return result.exit_code, result.output


def write_experiment(folder: Path, name: str, grid: str = "", **keys: Scalar) -> Path:
    """Write an experiment on a tiny synthetic federation beside it."""
    if not (folder / "federation.toml").exists():
        write_federation(folder, {"north": "labeled", "west": "unlabeled"}, images=6)
    flat: dict[str, Scalar] = {
        **TINY,
        "federation": "federation.toml",
        "cache-dir": str(folder / "cache"),
        "tracking": "",
        "method": "fedavg",
        "rounds": 2,
        **keys,
    }
    path = folder / f"{name}.toml"
    path.write_text(config_toml(flat) + grid)
    return path
