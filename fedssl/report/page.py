"""`report.html`: a finished run as one file that needs no network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedssl.memory import write_atomically
from fedssl.report.cases import cases
from fedssl.report.curves import curves
from fedssl.report.load import load_run
from fedssl.report.overview import header, overview
from fedssl.report.parts import document, tabs
from fedssl.report.settings import configuration, method_part, summary_of, without_paths

__all__ = ["write_report"]


def write_report(folder: Path, *, share: bool = False) -> Path:
    """Write the report of a finished run into its folder.

    Args:
        folder: the run folder.
        share: leave out pictures, case names and local paths, and write `report-share.html`.

    Returns:
        The file.

    Raises:
        DataError: the folder holds no finished run.
    """
    run = load_run(folder, cases=not share)
    if share:
        run = replace(run, config=without_paths(run.config))
    method = str(run.results["method"])
    body = tabs(
        "part",
        "Parts of the report",
        {
            "Overview": overview(run),
            "Curves": curves(run),
            "Cases": cases(run),
            "Configuration": configuration(run),
            "Method": method_part(run),
        },
    )
    title = f"{method} on {run.results['task']['name']}, seed {run.results['seed']} - fedssl"
    page = document(title, header(run, summary_of(method)), body)
    target = folder / ("report-share.html" if share else "report.html")
    write_atomically(target, page.encode())
    return target
