"""Tables of finished runs: `python -m experiments.table runs --write experiments/RESULTS.md`.

Per set and choice of labeled sites, one row per experiment: Dice, HD95 and ASSD at the unlabeled
sites, or at the mixed ones where there are no others (mean over sites, then over seeds, with the
standard deviation over seeds), the paired difference in Dice from the lower bound with a bootstrap
interval over cases, and the share of the gap between lower and upper bound that is closed. What is
not there yet is a dash: runs are paired over the seeds and folds that both have. Folds of a
cross-validation are pooled, case by case. Runs are read from results folders and from records.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from experiments.rows import Row, load_rows
from fedssl.cli.options import friendly_errors
from fedssl.memory import write_atomically

__all__ = ["load_rows", "markdown"]

MARK = "<!-- generated below this line by `python -m experiments.table` -->"


def markdown(rows: Sequence[Row]) -> str:
    """Return one table per set and grid point; without a lower bound there is no difference."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.set, row.point].append(row)
    blocks = []
    for (set_, point), group in sorted(groups.items()):
        uppers = groups.get((set_, ""), []) if point else group
        upper = next((r for r in uppers if r.experiment == "upper"), None)
        lower = next((r for r in group if r.experiment == "lower"), None)
        if lower is not None or any(row is not upper for row in group):
            blocks.append(_block(set_, point, group, lower, upper))
    return "\n\n".join(blocks) + "\n"


def _block(
    set_: str, point: str, group: Sequence[Row], lower: Row | None, upper: Row | None
) -> str:
    # Where one mixed site is the whole federation, that is where the test images are.
    first = lower or next(row for row in group if row is not upper)
    sites = first.sites("unlabeled") or first.sites("mixed") or first.sites("labeled")
    shown = [r for r in group if r.experiment != "upper"] + ([upper] if upper else [])
    shown.sort(key=lambda r: (r.experiment != "lower", r.experiment == "upper", r.experiment))
    units = sorted({unit for row in shown for unit in row.units(sites)})
    unit = units[0] if len(units) == 1 else "of several units" if units else "-"
    heads = [f"Dice {s}" for s in sites]
    head = ["experiment", "seeds", *heads, "Dice, mean", f"HD95 ({unit})", f"ASSD ({unit})"]
    head += ["difference from lower [95 %]", "gap closed", "s/run", "weights_sha256, first seed"]
    lines = [f"### {set_}{', ' + point if point else ''}", "", _cells(head)]
    lines.append(_cells(["---"] * len(head)))
    for row in shown:
        distances = [("hd95", 1), ("assd", 2)]
        cells = [
            row.experiment,
            row.amount,
            *(_spread(row.per_seed("dice", [s])) for s in sites),
            _spread(row.per_seed("dice", sites)),
            # Millimetres and pixels have no mean.
            *(_spread(row.per_seed(m, sites) if len(units) == 1 else [], d) for m, d in distances),
            _difference(row, lower, sites),
            _gap(row, lower, upper, sites),
            f"{statistics.mean(r['wall_seconds'] for r in row.results.values()):.0f}",
            row.results[min(row.results)]["weights_sha256"][:12],
        ]
        lines.append(_cells(cells))
    return "\n".join(lines)


def _difference(row: Row, lower: Row | None, sites: Sequence[str]) -> str:
    if lower is None or row is lower:
        return "-"
    mean, low, high = row.difference(lower, sites)
    return "-" if math.isnan(mean) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _gap(row: Row, lower: Row | None, upper: Row | None, sites: Sequence[str]) -> str:
    """Return the share of the gap that is closed, unless the gap itself is within noise.

    Both are taken over the runs that all three rows have: folds differ more than methods do.
    """
    if lower is None or upper is None or row is lower or row is upper:
        return "-"
    runs = row.cases.keys() & lower.cases.keys() & upper.cases.keys()
    gained = row.difference(lower, sites, runs)[0]
    gap, surely, _ = upper.difference(lower, sites, runs)
    if math.isnan(surely) or math.isnan(gained):
        return "-"
    return f"{gained / gap:.0%}" if surely > 0 else "no gap beyond noise"


def _spread(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    roots: Annotated[
        list[Path],
        typer.Argument(
            help="Results folders of experiments.run or folders of records; later ones win."
        ),
    ],
    write: Annotated[Path | None, typer.Option(help="File to update below its mark.")] = None,
) -> None:
    """Print the tables, or write them below the mark of a file."""
    with friendly_errors():
        text = markdown(load_rows(*roots))
        if write is None:
            typer.echo(text)
            return
        head = write.read_text(encoding="utf-8").partition(MARK)[0] if write.exists() else ""
        write_atomically(write, f"{head}{MARK}\n\n{text}".encode())


if __name__ == "__main__":
    typer.run(main)
