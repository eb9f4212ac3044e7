"""Tables of finished runs: `python -m experiments.table runs --write experiments/RESULTS.md`.

Per set and choice of labeled sites, one row per experiment: Dice, HD95 and ASSD at the unlabeled
sites, or at the mixed ones where there are no others (mean over sites, then over seeds, with the
standard deviation over seeds), the paired difference in Dice from the lower bound with a bootstrap
interval over cases, and the share of the gap between lower and upper bound that is closed.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

__all__ = ["Row", "load_rows", "markdown", "paired_interval"]

MARK = "<!-- generated below this line by `python -m experiments.table` -->"


@dataclass(slots=True)
class Row:
    """All seeds of one experiment at one point of its grid.

    Args:
        set: name of the experiments' folder.
        experiment: file stem, e.g. `denoise`.
        point: grid point, e.g. `labeled-sites=hrf`; '' without a grid.
        results: `results.json` by seed.
        cases: seed -> site -> case -> mean Dice over classes.
    """

    set: str
    experiment: str
    point: str
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    cases: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)

    def sites(self, role: str) -> list[str]:
        """Return the sites of a role."""
        first = next(iter(self.results.values()))
        return [name for name, site in first["sites"].items() if site["role"] == role]

    def per_seed(self, metric: str, sites: Sequence[str]) -> list[float]:
        """Return one mean over sites and classes per seed; sites without masks are left out."""
        means = []
        for result in self.results.values():
            values = [_mean(result["sites"][s][metric].values()) for s in sites]
            known = [v for v in values if v is not None]
            if known:
                means.append(sum(known) / len(known))
        return means

    def case_means(self, sites: Sequence[str]) -> dict[tuple[str, str], float]:
        """Return Dice per (site, case), averaged over seeds."""
        collected: dict[tuple[str, str], list[float]] = defaultdict(list)
        for by_site in self.cases.values():
            for site in sites:
                for case, dice in by_site.get(site, {}).items():
                    collected[site, case].append(dice)
        return {key: sum(v) / len(v) for key, v in collected.items()}


def load_rows(root: Path) -> list[Row]:
    """Read every finished run below `root` (`<set>/<experiment>[/<point>]/seed<k>/`)."""
    rows: dict[tuple[str, str, str], Row] = {}
    for path in sorted(root.glob("**/seed*/results.json")):
        set_, experiment, *point = path.parent.parent.relative_to(root).parts
        key = (set_, experiment, "/".join(point))
        row = rows.setdefault(key, Row(*key))
        seed = int(path.parent.name.removeprefix("seed"))
        row.results[seed] = json.loads(path.read_text(encoding="utf-8"))
        row.cases[seed] = {
            file.parent.name: _case_dice(file)
            for file in sorted(path.parent.glob("sites/*/cases.jsonl"))
        }
    return list(rows.values())


def _case_dice(path: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {line["name"]: sum(line["dice"].values()) / len(line["dice"]) for line in lines}


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
    """Return one table per set and grid point."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.set, row.point].append(row)
    blocks = []
    for (set_, point), group in sorted(groups.items()):
        uppers = groups.get((set_, ""), []) if point else group
        upper = next((r for r in uppers if r.experiment == "upper"), None)
        lower = next((r for r in group if r.experiment == "lower"), None)
        if lower is not None:
            blocks.append(_block(set_, point, group, lower, upper))
    return "\n\n".join(blocks) + "\n"


def _block(set_: str, point: str, group: Sequence[Row], lower: Row, upper: Row | None) -> str:
    # Where one mixed site is the whole federation, that is where the test images are.
    sites = lower.sites("unlabeled") or lower.sites("mixed") or lower.sites("labeled")
    shown = [r for r in group if r.experiment != "upper"] + ([upper] if upper else [])
    shown.sort(key=lambda r: (r.experiment != "lower", r.experiment == "upper", r.experiment))
    unit = next(iter(next(iter(lower.results.values()))["sites"].values()))["distance_unit"]
    heads = [f"Dice {s}" for s in sites]
    lines = [
        f"### {set_}{', ' + point if point else ''}",
        "",
        _cells(
            [
                "experiment",
                "seeds",
                *heads,
                "Dice, mean",
                f"HD95 ({unit})",
                f"ASSD ({unit})",
                "difference from lower [95 %]",
                "gap closed",
                "s/run",
                "weights_sha256, first seed",
            ]
        ),
        _cells(["---"] * (len(sites) + 9)),
    ]
    for row in shown:
        difference = paired_interval(row.case_means(sites), lower.case_means(sites))
        gap = _gap(row, lower, upper, sites)
        lines.append(
            _cells(
                [
                    row.experiment,
                    str(len(row.results)),
                    *(_spread(row.per_seed("dice", [s])) for s in sites),
                    _spread(row.per_seed("dice", sites)),
                    _spread(row.per_seed("hd95", sites), 1),
                    _spread(row.per_seed("assd", sites), 2),
                    "-" if row is lower else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference),
                    gap,
                    f"{statistics.mean(r['wall_seconds'] for r in row.results.values()):.0f}",
                    row.results[min(row.results)]["weights_sha256"][:12],
                ]
            )
        )
    return "\n".join(lines)


def _gap(row: Row, lower: Row, upper: Row | None, sites: Sequence[str]) -> str:
    """Return the share of the gap that is closed, unless the gap itself is within noise."""
    if upper is None or row is lower or row is upper:
        return "-"
    if paired_interval(upper.case_means(sites), lower.case_means(sites))[1] <= 0:
        return "no gap beyond noise"
    low, high, ours = (statistics.mean(r.per_seed("dice", sites)) for r in (lower, upper, row))
    return f"{(ours - low) / (high - low):.0%}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
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
    text = markdown(load_rows(root))
    if write is None:
        typer.echo(text)
        return
    head = write.read_text(encoding="utf-8").partition(MARK)[0] if write.exists() else ""
    write.write_text(f"{head}{MARK}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
