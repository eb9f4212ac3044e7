"""A check's report as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["show_report"]

SHOWN = 4
"""Files that are listed of findings of one kind."""


def show_report(report: dict[str, Any], *, everything: bool, console: Console) -> None:
    """Print what `fedssl.data.check_json.report_table` made.

    Args:
        report: its table.
        everything: list every finding, not only the first of a kind.
        console: where to.
    """
    for site in report["sites"]:
        console.print(
            f"[bold]{escape(site['site'])}[/] ({site['role']}, layout {site['layout']}): "
            f"{site['readable']} of {site['cases']} cases readable, {site['masks']} with a mask, "
            f"{site['subjects']} subjects"
        )
        if site["statistics"]:
            console.print(_statistics(site["statistics"]))
        _show_findings(site["findings"], everything, console)
    _show_findings(report["between_sites"], everything, console)
    errors, warnings = report["errors"], report["warnings"]
    colour = "red" if errors else "yellow" if warnings else "green"
    told = "Ready to train" if not errors else "Not ready to train"
    console.print(f"[{colour}]{told}: {errors} errors, {warnings} warnings.[/]")


def _statistics(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    units = ", ".join(found["spacing_units"])
    for axis, spread in found["size"].items():
        spacing = found["spacing"][axis]
        table.add_row(axis, f"{_spread(spread)} voxels", f"{_spread(spacing)} {units} apart")
    values = found["intensity"]
    table.add_row(
        "intensity",
        f"{values['min']:.4g} to {values['max']:.4g}",
        f"mean {values['mean']:.4g}, deviation {values['std']:.4g}",
    )
    for row in found["classes"]:
        name = f"{row['value']} = {escape(row['name'])}"
        table.add_row(name, f"{row['fraction']:.2%} of voxels", f"in {row['masks']} masks")
    return table


def _spread(spread: dict[str, float]) -> str:
    low, middle, high = (f"{spread[key]:.4g}" for key in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _show_findings(findings: Sequence[dict[str, str]], everything: bool, console: Console) -> None:
    for group in _by_kind(findings):
        first = group[0]
        colour = "red" if first["level"] == "error" else "yellow"
        shown = group if everything else group[:SHOWN]
        for finding in shown:
            console.print(f"  [{colour}]{finding['level']}[/] {escape(finding['file'])}")
            console.print(f"      {escape(finding['detail'])}")
        if len(group) > len(shown):
            more = len(group) - len(shown)
            console.print(f"      ... and {more} more like these; --all lists them.")
        console.print(f"      -> {escape(first['remedy'])}")


def _by_kind(findings: Sequence[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """Yield findings of one level, kind and remedy together."""

    def kind(finding: dict[str, str]) -> tuple[str, str, str]:
        return finding["level"], finding["kind"], finding["remedy"]

    for _, group in groupby(sorted(findings, key=kind), key=kind):
        yield list(group)
