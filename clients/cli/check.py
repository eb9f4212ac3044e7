"""`fedssl-client check`: read every file of a site and tell every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.output import JsonOption, reported, show
from clients.cli.places import DataRootOption, OnlyOption, PlaceArgument, find_sites
from clients.cli.progress import bars

if TYPE_CHECKING:
    from fedssl.data.check import SiteReport

__all__ = ["check_command"]

SummaryOption = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        help="Write counts and histograms only, no names, for the coordinator's `fedssl plan`.",
    ),
]
ToleranceOption = Annotated[
    float, typer.Option("--tolerance", min=0, help="Voxels between the grids of image and mask.")
]


def check_command(
    place: PlaceArgument = "site.toml",
    only: OnlyOption = "",
    data_root: DataRootOption = "",
    summary: SummaryOption = None,
    tolerance: ToleranceOption = 0.1,
    everything: Annotated[bool, typer.Option("--all", help="List every finding.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every image and mask; exit status 1 if an error would keep the site from training."""
    with reported(as_json):
        from fedssl.data.check import check_site, check_together
        from fedssl.data.check_json import report_table

        task, sites = find_sites(place, only, data_root)
        with bars("check") as progress:
            reports = [check_site(s, task, tolerance=tolerance, progress=progress) for s in sites]
        table = report_table(reports, check_together(reports))
    _tell(table, everything, as_json)
    if summary is not None:
        with reported(as_json=False):  # one JSON object is on standard output already
            _write_summary(summary, reports)
        typer.echo(f"Wrote {summary}. Look through it before you give it away.", err=True)
    raise typer.Exit(0 if table["ok"] else 1)


def _write_summary(path: Path, reports: list[SiteReport]) -> None:
    from fedssl.data.summary import merge, summary_json
    from fedssl.memory import write_atomically

    merged = merge([report.summary() for report in reports])
    write_atomically(path, summary_json(merged).encode())


def _tell(table: dict[str, Any], everything: bool, as_json: bool) -> None:
    if as_json:
        show(table)
        return
    from rich.console import Console

    from clients.cli.check_view import show_report

    show_report(table, everything=everything, console=Console(soft_wrap=True, highlight=False))
