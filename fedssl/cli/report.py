"""`fedssl report` and `fedssl compare`: pages about finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedssl.cli.options import friendly_errors

__all__ = ["compare_command", "report_command"]

RunFolders = Annotated[list[Path], typer.Argument(help="Folders of finished runs.")]


def report_command(
    folders: RunFolders,
    share: Annotated[
        bool,
        typer.Option(
            "--share", help="Leave out pictures, case names and local paths: report-share.html."
        ),
    ] = False,
) -> None:
    """Write report.html into each run folder, as every run does at its end."""
    with friendly_errors():
        from fedssl.report.page import write_report

        for folder in folders:
            typer.echo(write_report(folder, share=share))


def compare_command(
    folders: RunFolders,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Compare runs: a table of Dice per site, and a page with bars, curves and what differs."""
    with friendly_errors():
        from fedssl.report.compare import write_comparison

        written = write_comparison(folders, out)
        console = Console(highlight=False, soft_wrap=True)
        console.print(_table(folders))
        console.print(str(written), markup=False)


def _table(folders: list[Path]) -> Table:
    from fedssl.report.compare import load_runs
    from fedssl.report.overview import site_dice

    runs = load_runs(folders)
    sites = list(dict.fromkeys(site for run in runs.values() for site in run.sites))
    table = Table(title="Test split: Dice, mean over classes")
    table.add_column("run", no_wrap=True)
    for name in ("mean", *sites):
        table.add_column(escape(name), justify="right")
    for name, run in runs.items():
        dices = [run.results["mean_dice"]]
        dices += [site_dice(run.sites[site]) if site in run.sites else None for site in sites]
        table.add_row(escape(name), *("-" if dice is None else f"{dice:.3f}" for dice in dices))
    return table
