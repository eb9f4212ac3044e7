"""What a person sees while a run goes on: one line per round, and a table at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedssl.config import RunConfig
from fedssl.results import RoundRecord, RunFolder, absences, lost_classes
from fedssl.types import SiteInfo

__all__ = ["ConsoleProgress", "results_table"]


_LOG_WIDTH = 1000
"""Columns of a log file; a table takes those that it needs."""


class ConsoleProgress:
    """Prints to a console; also readable when the console is a log file."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._rounds = 0
        self._seconds: list[float] = []

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        """Show who takes part."""
        self._rounds = run.rounds
        sites = ", ".join(f"{i.name} ({i.role}, {i.num_examples} samples)" for i in roster.values())
        begin = f", from round {round_ + 1}" if round_ else ""
        self._print(f"{run.method}: {run.rounds} rounds{begin}, seed {run.seed}. {sites}.")

    def round_done(self, record: RoundRecord) -> None:
        """Show losses, Dice where it was measured, and the time left."""
        self._seconds.append(record.seconds)
        left = self._rounds - record.round - 1
        pace = sum(self._seconds[-5:]) / len(self._seconds[-5:])
        parts = [f"round {record.round + 1:>3}/{self._rounds}", "+".join(record.stages)]
        parts += [f"{k} {v:.3f}" for k, v in _losses(record).items()]
        if record.evaluation:
            parts.append(f"val Dice {_mean_dice(record):.3f}")
        parts.append(f"{record.seconds:.1f} s, {_clock(pace * left)} left")
        self._print("  ".join(parts))

    def finish(self, folder: RunFolder) -> None:
        """Show the per-site table and where the run folder is."""
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        table = results_table(results)
        if not self._console.is_terminal:
            self._console.width = _LOG_WIDTH  # else numbers are cut to 80 columns
        self._console.print(table)
        for line in absences(results["sites"]) + lost_classes(results["sites"]):
            self._print(line)
        self._print(f"weights_sha256 {results['weights_sha256']}\nRun folder: {folder.path}")
        report = folder.path / "report.html"
        if report.is_file():
            self._print(f"Report: {report}")

    def _print(self, text: str) -> None:
        # Names may hold square brackets, which are markup to rich.
        self._console.print(text, markup=False)


def results_table(results: Mapping[str, Any]) -> Table:
    """Return the per-site table of a `results.json`; distances of sites may differ in unit."""
    sites = results["sites"]
    units = {site["distance_unit"] for site in sites.values()}
    head = f" [{units.pop()}]" if len(units) == 1 else ""
    table = Table(title=f"{results['method']}, seed {results['seed']}: test split, per site")
    for name in ("site", "role", "cases"):
        table.add_column(name)
    classes = results["task"]["classes"][1:]
    for c in classes:
        table.add_column(escape(f"Dice {c}"), justify="right")
    for c in classes:
        table.add_column(escape(f"HD95 {c}{head}"), justify="right")
    table.add_column("pseudo Dice", justify="right")
    for name, site in sites.items():
        cases = str(site["cases"]) if site.get("answered", True) else "no answer"
        cells = [escape(name), site["role"], cases]
        cells += [_cell(site["dice"][c], 3) for c in classes]
        cells += [
            _distance(site["hd95"][c], "" if head else site["distance_unit"]) for c in classes
        ]
        table.add_row(*cells, _cell(site["pseudo_dice"], 3))
    return table


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _distance(value: float | None, unit: str) -> str:
    return _cell(value, 1) if value is None or not unit else f"{_cell(value, 1)} {unit}"


def _losses(record: RoundRecord) -> dict[str, float]:
    totals: dict[str, list[float]] = {}
    for metrics in record.sites.values():
        for key, value in metrics.items():
            if key.startswith("loss/"):
                totals.setdefault(key.removeprefix("loss/"), []).append(value)
    return {k: sum(v) / len(v) for k, v in totals.items()}


def _mean_dice(record: RoundRecord) -> float:
    values = [m for s in record.evaluation.values() if (m := s.mean_dice()) is not None]
    return sum(values) / len(values) if values else float("nan")


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))
