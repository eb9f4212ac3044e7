"""Tables of finished runs: `python -m experiments.table runs --write experiments/RESULTS.md`.

Per set and choice of labeled sites, one row per experiment: Dice, HD95 and ASSD at the unlabeled
sites, or at the mixed ones where there are no others (mean over sites, then over seeds, with the
standard deviation over seeds), the paired difference in Dice from the lower bound with a bootstrap
interval over cases, and the share of the gap between lower and upper bound that is closed. What is
not there yet is a dash: runs are paired over the seeds and folds that both have. Folds of a
cross-validation are pooled, case by case.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from fedssl.cli.options import friendly_errors
from fedssl.errors import DataError
from fedssl.memory import write_atomically

__all__ = ["Row", "Run", "load_rows", "markdown", "paired_interval"]

MARK = "<!-- generated below this line by `python -m experiments.table` -->"


class Run(NamedTuple):
    """Which run of an experiment: its seed, and which fold was the test split if not its own."""

    seed: int
    fold: str = ""


@dataclass(slots=True)
class Row:
    """All seeds and folds of one experiment at one point of its grid.

    Args:
        set: name of the experiments' folder.
        experiment: file stem, e.g. `denoise`.
        point: grid point, e.g. `labeled-sites=hrf`; '' without a grid.
        results: `results.json` by run.
        cases: run -> site -> case -> mean Dice over classes.
    """

    set: str
    experiment: str
    point: str
    results: dict[Run, dict[str, Any]] = field(default_factory=dict)
    cases: dict[Run, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds that ran."""
        return sorted({run.seed for run in self.results})

    @property
    def amount(self) -> str:
        """How many seeds, and how many runs where folds are pooled."""
        folds = {run.fold for run in self.results}
        pooled = f" ({len(self.results)} folds)" if len(folds) > 1 else ""
        return f"{len(self.seeds)}{pooled}"

    def sites(self, role: str) -> list[str]:
        """Return the sites of a role."""
        first = next(iter(self.results.values()))
        return [name for name, site in first["sites"].items() if site["role"] == role]

    def per_seed(self, metric: str, sites: Sequence[str]) -> list[float]:
        """Return one mean over sites and classes per seed; sites without masks are left out."""
        means = []
        for seed in self.seeds:
            results = [result for run, result in self.results.items() if run.seed == seed]
            known = [v for s in sites if (v := _pooled(metric, s, results)) is not None]
            if known:
                means.append(sum(known) / len(known))
        return means

    def units(self, sites: Sequence[str]) -> list[str]:
        """Return the units of the distances that were measured at these sites."""
        entries = [r["sites"][s] for r in self.results.values() for s in sites if s in r["sites"]]
        measured = [e for e in entries if _mean(e["hd95"].values()) is not None]
        return sorted({entry["distance_unit"] for entry in measured})

    def case_means(
        self, sites: Sequence[str], runs: Collection[Run]
    ) -> dict[tuple[str, str], float]:
        """Return Dice per (site, case), averaged over those of these runs that tested it."""
        collected: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in runs:
            for site in sites:
                for case, dice in self.cases[run].get(site, {}).items():
                    collected[site, case].append(dice)
        return {key: sum(v) / len(v) for key, v in collected.items()}

    def difference(self, other: Row, sites: Sequence[str]) -> tuple[float, float, float]:
        """Return the paired difference from another row over the runs that both have."""
        runs = sorted(self.cases.keys() & other.cases.keys())
        return paired_interval(self.case_means(sites, runs), other.case_means(sites, runs))


def load_rows(root: Path) -> list[Row]:
    """Read every finished run below `root` (`<set>/<experiment>[/<point>][/fold<j>]/seed<k>/`).

    Raises:
        DataError: there is none, or a file is damaged.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    for path in sorted(root.glob("**/seed*/results.json")):
        numbered = re.fullmatch(r"seed(\d+)", path.parent.name)
        set_, experiment, *point = [*path.parent.parent.relative_to(root).parts, "", ""]
        if numbered is None or not experiment:
            continue
        folds = [part for part in point if re.fullmatch(r"fold\d+", part)]
        key = (set_, experiment, "/".join(part for part in point if part and part not in folds))
        row = rows.setdefault(key, Row(*key))
        run = Run(int(numbered[1]), "".join(folds))
        (row.results[run],) = _json_lines(path, whole=True)
        row.cases[run] = {
            file.parent.name: _case_dice(file)
            for file in sorted(path.parent.glob("sites/*/cases.jsonl"))
        }
    if not rows:
        raise DataError(
            f"{root} holds no finished run as <set>/<experiment>/seed<k>/results.json. Give the "
            "--out of experiments.run, not a set's folder below it."
        )
    return list(rows.values())


def _case_dice(path: Path) -> dict[str, float]:
    lines = _json_lines(path)
    return {line["name"]: sum(line["dice"].values()) / len(line["dice"]) for line in lines}


def _json_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(line) for line in ([text] if whole else text.splitlines()) if line]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Delete the run and run it again.") from None


def paired_interval(
    ours: Mapping[tuple[str, str], float],
    theirs: Mapping[tuple[str, str], float],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return mean paired difference and its 95 % bootstrap interval over cases.

    Sites weigh the same; cases are drawn within each site.
    """
    by_site: dict[str, list[float]] = defaultdict(list)
    for key in sorted(ours.keys() & theirs.keys()):
        by_site[key[0]].append(ours[key] - theirs[key])
    if not by_site:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    differences = [np.array(v) for v in by_site.values()]
    means = np.mean([rng.choice(d, (draws, len(d))).mean(axis=1) for d in differences], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


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
    """Return the share of the gap that is closed, unless the gap itself is within noise."""
    if lower is None or upper is None or row is lower or row is upper:
        return "-"
    dices = [r.per_seed("dice", sites) for r in (lower, upper, row)]
    surely = upper.difference(lower, sites)[1]
    if math.isnan(surely) or not all(dices):
        return "-"
    low, high, ours = map(statistics.mean, dices)
    if surely <= 0 or high <= low:
        return "no gap beyond noise"
    return f"{(ours - low) / (high - low):.0%}"


def _pooled(metric: str, site: str, results: Sequence[Mapping[str, Any]]) -> float | None:
    """Return a site's mean over classes and over the test cases of all folds."""
    entries = [result["sites"][site] for result in results if site in result["sites"]]
    means = [(_mean(entry[metric].values()), entry["cases"]) for entry in entries]
    known = [(value, cases) for value, cases in means if value is not None]
    total = sum(cases for _, cases in known)
    return sum(value * cases for value, cases in known) / total if total else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else None


def _spread(values: Sequence[float], digits: int = 3) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    root: Annotated[Path, typer.Argument(help="Results folder of experiments.run.")],
    write: Annotated[Path | None, typer.Option(help="File to update below its mark.")] = None,
) -> None:
    """Print the tables, or write them below the mark of a file."""
    with friendly_errors():
        text = markdown(load_rows(root))
        if write is None:
            typer.echo(text)
            return
        head = write.read_text(encoding="utf-8").partition(MARK)[0] if write.exists() else ""
        write_atomically(write, f"{head}{MARK}\n\n{text}".encode())


if __name__ == "__main__":
    typer.run(main)
