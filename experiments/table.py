"""Tables of finished runs: `python -m experiments.table runs --write experiments/RESULTS.md`.

Per set and choice of labeled sites, one row per experiment and further grid point: Dice, HD95 and
ASSD at the unlabeled sites, or at the mixed or labeled ones where no other is scored (mean over
sites, then over seeds, with the standard deviation over seeds), the paired difference in Dice from
the lower bound with a bootstrap interval over cases, and the share of the gap between lower and
upper bound that is closed. What is not there yet is a dash: runs are paired over the seeds and
folds that both have. Folds of a cross-validation are pooled, case by case. A second table tells
site and class. Runs are read from results folders and from records.

The lower bound of an experiment is `<experiment>-lower` if there is one, else `lower`; the upper
bound is `upper`; both at the row's grid point, or without the keys that they do not vary.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from experiments.keys import shared_keys
from experiments.rows import Row, load_rows
from fedssl.cli.options import friendly_errors
from fedssl.export.card import markdown_cell
from fedssl.memory import write_atomically

__all__ = ["load_rows", "markdown"]

MARK = "<!-- generated below this line by `python -m experiments.table` -->"

_WHO = ("federation", "sites", "labeled-sites")
"""Who has masks. In a grid such a key makes a table of its own, for it changes who is tested."""


class _Line(NamedTuple):
    """A row and what it is compared with."""

    row: Row
    lower: Row | None
    upper: Row | None

    @property
    def label(self) -> str:
        rest = [f"{k}={v}" for k, v in self.row.parts.items() if k not in _WHO]
        return ", ".join([self.row.experiment, *rest])


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables of each set and choice of sites; without a lower bound no difference."""
    groups: dict[tuple[str, str], list[_Line]] = defaultdict(list)
    for row in rows:
        line = _Line(row, _bound(rows, row, "lower"), _bound(rows, row, "upper"))
        groups[row.set, _who(row)].append(line)
    bounding = {id(line.upper) for lines in groups.values() for line in lines}
    blocks = []
    for (set_, who), lines in sorted(groups.items()):
        # An upper bound of several choices stands in the table of each of them.
        if not all(_is_upper(line.row) and id(line.row) in bounding for line in lines):
            blocks.append(_block(f"{set_}{', ' + who if who else ''}", _with_bounds(lines)))
    return "\n\n".join(blocks) + "\n"


def _with_bounds(lines: Sequence[_Line]) -> list[_Line]:
    """Return the lines of a table in their order, with the bounds that other grid points have."""
    own = {id(line.row) for line in lines}
    lower = next((line.lower for line in lines if line.lower is not None), None)
    bounds = {id(row): row for line in lines for row in line[1:] if row is not None}
    added = [_Line(row, lower, None) for key, row in bounds.items() if key not in own]
    lines = [x._replace(lower=lower) if _is_upper(x.row) else x for x in lines]
    return sorted([*lines, *added], key=lambda x: (not _is_lower(x.row), _is_upper(x.row), x.label))


def _who(row: Row) -> str:
    return ",".join(f"{k}={v}" for k, v in row.parts.items() if k in _WHO)


def _is_lower(row: Row) -> bool:
    return row.experiment.rpartition("-")[2] == "lower"


def _is_upper(row: Row) -> bool:
    return row.experiment.rpartition("-")[2] == "upper"


def _bound(rows: Sequence[Row], row: Row, kind: str) -> Row | None:
    """Return `<experiment>-<kind>` or else `<kind>`, at the grid point that fits best."""
    if (_is_lower(row) and kind == "lower") or (_is_upper(row) and kind == "upper"):
        return row if kind == row.experiment else None
    stem = row.experiment.removesuffix("-lower")
    found = [
        other
        for other in rows
        if other.set == row.set
        and other.experiment in (kind, f"{stem}-{kind}")
        and other.parts.items() <= row.parts.items()
    ]
    return max(found, key=lambda r: (r.experiment != kind, len(r.parts)), default=None)


def _block(title: str, lines: Sequence[_Line]) -> str:
    sites = next((line.row for line in lines if not _is_upper(line.row)), lines[0].row).scored()
    units = sorted({unit for line in lines for unit in line.row.units(sites)})
    unit = units[0] if len(units) == 1 else "of several units" if units else "-"
    heads = [f"Dice {s}" for s in sites]
    head = ["experiment", "seeds", *heads, "Dice, mean", f"HD95 ({unit})", f"ASSD ({unit})"]
    head += ["difference from lower [95 %]", "gap closed", "s of rounds", "weights_sha256"]
    # Millimetres and pixels have no mean.
    measured = sites if len(units) == 1 else []
    rows = [_row(line, sites, measured) for line in lines]
    notes = [_PARTIAL] if any(map(_lacks_runs, lines)) else []
    notes += _silent_sites(lines, sites)
    parts = [f"### {title}", _table(head, rows), *notes, *_mixed_keys(lines)]
    return "\n\n".join([*parts, _by_class(lines, sites)])


def _row(line: _Line, sites: Sequence[str], measured: Sequence[str]) -> list[str]:
    row = line.row
    seconds = statistics.mean(result["wall_seconds"] for result in row.results.values())
    return [
        line.label,
        f"{row.amount}{' *' if _lacks_runs(line) else ''}",
        *(_spread(row.per_seed("dice", [site])) for site in sites),
        _spread(row.per_seed("dice", sites)),
        *(_spread(row.per_seed(metric, measured), digits) for metric, digits in _FAR),
        _difference(line, sites),
        _gap(line, sites),
        f"{seconds:.0f}",
        row.results[min(row.results)]["weights_sha256"][:12],
    ]


def _lacks_runs(line: _Line) -> bool:
    """Whether the lower bound has seeds or folds that a row lacks."""
    return line.lower is not None and bool(line.lower.results.keys() - line.row.results.keys())


_PARTIAL = (
    "\\* fewer runs than the lower bound: Dice and distances are over its own runs, difference and "
    "gap over those that both have."
)

_FAR = (("hd95", 1), ("assd", 2))
"""Metrics of distance, and their digits."""


def _silent_sites(lines: Sequence[_Line], sites: Sequence[str]) -> list[str]:
    """Return a sentence on the sites that had no score in some runs, if there are any."""
    missed = [
        f"{site} in {line.label}, seed {run.seed}{', ' + run.fold if run.fold else ''}"
        for line in lines
        for site, run in line.row.silent(sites)
    ]
    return [f"Without a score: {'; '.join(missed)}."] if missed else []


def _by_class(lines: Sequence[_Line], sites: Sequence[str]) -> str:
    """Return every site's and class's scores, folded away."""
    head = ["experiment", "site", "class", "Dice", "HD95", "ASSD", "unit"]
    cells = []
    for line in lines:
        for site in sites:
            unit = ", ".join(line.row.units([site])) or "-"
            for name in line.row.classes(site):
                dice = _spread(line.row.per_seed("dice", [site], name))
                far = [_spread(line.row.per_seed(m, [site], name), d) for m, d in _FAR]
                cells.append([line.label, site, name, dice, *far, unit])
    opened = "<details><summary>By site and class</summary>"
    return f"{opened}\n\n{_table(head, cells)}\n\n</details>"


def _mixed_keys(lines: Sequence[_Line]) -> list[str]:
    """Return a sentence for each key that not all rows share; they are not quite comparable."""
    keys: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    found = [
        (line, shared_keys(config, line.row.parts))
        for line in lines
        for config in line.row.configs.values()
    ]
    for key in sorted({key for _, shared in found for key in shared}):
        for line, shared in found:
            if key in _WHO and _is_upper(line.row):  # its sites have other roles on purpose
                continue
            value = repr(shared[key]) if key in shared else "default"
            if line.label not in keys[key][value]:
                keys[key][value].append(line.label)
    return [
        f"Not the same in all rows: `{key}` is "
        + "; ".join(f"{value} in {', '.join(names)}" for value, names in sorted(values.items()))
        + "."
        for key, values in keys.items()
        if len(values) > 1
    ]


def _difference(line: _Line, sites: Sequence[str]) -> str:
    if line.lower is None or line.row is line.lower:
        return "-"
    mean, low, high = line.row.difference(line.lower, sites)
    return "-" if math.isnan(mean) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _gap(line: _Line, sites: Sequence[str]) -> str:
    """Return the share of the gap that is closed, unless the gap itself is within noise.

    Both are taken over what all three rows tested: folds differ more than methods do.
    """
    row, lower, upper = line
    if lower is None or upper is None or row is lower or row is upper:
        return "-"
    tests = row.tested(sites) & lower.tested(sites) & upper.tested(sites)
    gained = row.difference(lower, sites, tests)[0]
    gap, surely, _ = upper.difference(lower, sites, tests)
    if math.isnan(surely) or math.isnan(gained):
        return "-"
    return f"{gained / gap:.0%}" if surely > 0 else "no gap beyond noise"


def _spread(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[*map(markdown_cell, cells)] for cells in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
