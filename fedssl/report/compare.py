"""Several runs side by side, as one file that needs no network."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssl.memory import write_atomically
from fedssl.report.charts import Bar, Series, bar_chart, line_chart
from fedssl.report.curves import validation_dice
from fedssl.report.html import Markup, join, tag
from fedssl.report.load import Run, load_run
from fedssl.report.overview import site_dice
from fedssl.report.parts import (
    COLOURS,
    Look,
    byte_size,
    document,
    duration,
    legend,
    mean,
    tabs,
    value,
)
from fedssl.report.settings import PATH_KEYS

__all__ = ["Measure", "load_runs", "measures", "write_comparison"]

_DASHES = ("solid", "dashed", "dotted")
_CAUTION = (
    "One run per row: a difference between single seeds is no evidence. Repeat with several seeds "
    "and compare over cases before claiming one."
)

Runs = Mapping[str, Run]
Measure = Callable[[Run, str], float | None]
"""Run and site -> value."""


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a comparison of finished runs.

    Args:
        folders: run folders, in the order of the rows.
        out: the HTML file.

    Returns:
        `out`.

    Raises:
        DataError: a folder holds no finished run.
    """
    runs = load_runs(folders)
    looks = {
        name: Look(place % COLOURS, _DASHES[place // COLOURS % len(_DASHES)])
        for place, name in enumerate(runs)
    }
    tasks = ", ".join(dict.fromkeys(run.results["task"]["name"] for run in runs.values()))
    head = join(
        tag("p", "fedssl comparison", class_="brand"),
        tag("h1", f"{len(runs)} runs", tag("span", f" on {tasks}")),
    )
    body = tabs(
        "part",
        "Parts of the comparison",
        {
            "Results": _results(runs),
            "Bars": _bars(runs, looks),
            "Curves": _curves(runs, looks),
            "Configuration": _differences(runs),
        },
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, document(f"{len(runs)} runs on {tasks} - fedssl", head, body).encode())
    return out


def load_runs(folders: Sequence[Path]) -> dict[str, Run]:
    """Return runs by a name that tells them apart; values per case are not read."""
    runs = [load_run(folder, cases=False) for folder in folders]
    names = [f"{run.results['method']}, seed {run.results['seed']}" for run in runs]
    places = [run.folder.resolve() for run in runs]
    shared = Path(os.path.commonpath([place.parent for place in places]))
    own = [place.name for place in places]
    if len(set(own)) < len(own):  # seed0, seed0, ... of several experiments
        own = [place.relative_to(shared).as_posix() for place in places]
    named: dict[str, Run] = {}
    for name, run, place in zip(names, runs, own, strict=True):
        unique = name if names.count(name) == 1 else f"{name} ({place})"
        while unique in named:
            unique += "'"
        named[unique] = run
    return named


def measures(runs: Runs) -> dict[str, Measure]:
    """Return what is compared, by title: mean Dice, then each metric of each class."""
    found: dict[str, Measure] = {"Dice, mean over classes": lambda run, s: site_dice(run.sites[s])}
    classes = list(dict.fromkeys(c for run in runs.values() for c in run.foreground))
    for metric, title in (("dice", "Dice"), ("hd95", "HD95"), ("assd", "ASSD")):
        for class_ in classes:

            def read(run: Run, site: str, m: str = metric, c: str = class_) -> float | None:
                number: float | None = run.sites[site][m].get(c)
                return number

            found[f"{title} {class_}"] = read
    if len(classes) == 1:
        del found["Dice, mean over classes"]
    return {
        title: measure
        for title, measure in found.items()
        if any(measure(run, s) is not None for run in runs.values() for s in run.sites)
    }


def units(runs: Runs) -> list[str]:
    """Return the units of distances; only those in one unit have a mean."""
    sites = [site for run in runs.values() for site in run.sites.values()]
    measured = [s for s in sites if any(v is not None for v in s["hd95"].values())]
    return sorted({str(site["distance_unit"]) for site in measured})


def _sites(runs: Runs) -> list[str]:
    return list(dict.fromkeys(site for run in runs.values() for site in run.sites))


def _results(runs: Runs) -> Markup:
    panels = {title: _table(runs, measure, title) for title, measure in measures(runs).items()}
    notes = [tag("p", note, class_="note warn") for note in _warnings(runs)]
    return join(*notes, tag("p", _CAUTION, class_="note"), tabs("m", "Metric", panels, inner=True))


def _warnings(runs: Runs) -> list[str]:
    warnings = []
    if len({tuple(run.sites) for run in runs.values()}) > 1:
        warnings.append("The runs are on different sites: columns hold different means.")
    scored = {frozenset(n for n, s in run.sites.items() if s["cases"]) for run in runs.values()}
    if len(scored) > 1 and not warnings:
        warnings.append("Not all runs have results of the same sites: means are not comparable.")
    if len({tuple((n, s["role"]) for n, s in run.sites.items()) for run in runs.values()}) > 1:
        warnings.append(
            "Roles differ between the runs: 'Mean, labeled' and its like are over other sites in "
            "each of them."
        )
    splits = {
        tuple(run.config.get(f"split.{key}") for key in ("seed", "folds", "fold"))
        for run in runs.values()
    }
    if len(splits) > 1:
        warnings.append("The runs have different test splits: their numbers are not comparable.")
    if len(found := units(runs)) > 1:
        warnings.append(f"Distances are in {' and '.join(found)}, by site: they have no mean.")
    return warnings


def _table(runs: Runs, measure: Measure, title: str) -> Markup:
    dice = title.startswith("Dice")
    columns = _columns(runs, measure, means=dice or len(units(runs)) < 2)
    pick = max if dice else min
    best = {
        name: pick(known)
        for name, read in columns.items()
        if len(known := [v for run in runs.values() if (v := read(run)) is not None]) > 1
    }
    rows = []
    for name, run in runs.items():
        cells = [tag("th", name, scope="row")]
        for column, read in columns.items():
            found = read(run)
            cells.append(_cell(found, dice, found is not None and found == best.get(column)))
        seconds = float(run.results["wall_seconds"])
        traffic = run.results["bytes_up"] + run.results["bytes_down"]
        for amount, text in ((seconds, duration(seconds)), (traffic, byte_size(traffic))):
            cells.append(tag("td", tag("data", text, value=amount), class_="num"))
        rows.append(tag("tr", *cells))
    head = [
        tag(
            "th",
            tag("button", name, type="button", class_="sort"),
            scope="col",
            class_="num" if place else None,
        )
        for place, name in enumerate(("Run", *columns, "Time", "Traffic"))
    ]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tag("div", table, class_="scroll")


def _columns(
    runs: Runs, measure: Measure, *, means: bool
) -> dict[str, Callable[[Run], float | None]]:
    sites = {site: _at(measure, site) for site in _sites(runs)}
    if not means:
        return sites
    columns = {"Mean": _group(measure, None)}
    present = {s["role"] for run in runs.values() for s in run.sites.values()}
    columns |= {
        f"Mean, {role}": _group(measure, role)
        for role in ("labeled", "mixed", "unlabeled")
        if role in present and len(present) > 1
    }
    return columns | sites


def _cell(found: float | None, dice: bool, best: bool) -> Markup:
    kind = "num" + " share" * dice + " best" * best
    style = f"--v:{found:.4f}" if dice and found is not None else None
    return tag("td", value(found, 3 if dice else 2), class_=kind, style=style)


def _group(measure: Measure, role: str | None) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        sites = [name for name, s in run.sites.items() if role in (None, s["role"])]
        return mean([measure(run, name) for name in sites])

    return read


def _at(measure: Measure, site: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        return measure(run, site) if site in run.sites else None

    return read


def _bars(runs: Runs, looks: Mapping[str, Look]) -> Markup:
    panels = {}
    for title, measure in measures(runs).items():
        means = title.startswith("Dice") or len(units(runs)) < 2
        groups = _columns(runs, measure, means=means)
        charts = [_bar(runs, looks, n, read, title) for n, read in groups.items()]
        panels[title] = tag("div", *(chart for chart in charts if chart), class_="charts")
    return tag("div", tabs("b", "Metric", panels, inner=True), class_="spaced")


def _bar(
    runs: Runs,
    looks: Mapping[str, Look],
    title: str,
    read: Callable[[Run], float | None],
    metric: str,
) -> Markup:
    values = {name: v for name, run in runs.items() if (v := read(run)) is not None}
    if not values:
        return Markup()
    dice = metric.startswith("Dice")
    text = "{:.3f}" if dice else "{:.2f}"
    bars = [Bar(n, v, text.format(v), looks[n].colour) for n, v in values.items()]
    return bar_chart(title, bars, note=metric, high=1.0 if dice else max(values.values()) or 1.0)


def _curves(runs: Runs, looks: Mapping[str, Look]) -> Markup:
    rounds = max(int(run.results["rounds"]) for run in runs.values())

    def chart(title: str, points: Mapping[str, list[tuple[float, float]]], **how: Any) -> Markup:
        series = [Series(n, n, p, looks[n].colour, looks[n].dash) for n, p in points.items() if p]
        return line_chart(title, series, rounds=rounds, **how)

    overall = {name: validation_dice(run.rounds) for name, run in runs.items()}
    charts = [chart("Validation Dice, mean over sites", overall, y_range=(0.0, 1.0))]
    for site in _sites(runs):
        points = {name: validation_dice(_only(run, site)) for name, run in runs.items()}
        charts.append(chart(f"Validation Dice, {site}", points, y_range=(0.0, 1.0)))
    seconds = {n: [(r["round"] + 1.0, r["seconds"]) for r in run.rounds] for n, run in runs.items()}
    charts.append(chart("Seconds per round", seconds, unit=" s"))
    drawn = [c for c in charts if c]
    return join(legend(looks, {}, "Runs:"), tag("div", *drawn, class_="charts"))


def _only(run: Run, site: str) -> Iterable[Mapping[str, Any]]:
    for record in run.rounds:
        kept = {name: r for name, r in record["evaluation"].items() if name == site}
        yield {**record, "evaluation": kept}


def _differences(runs: Runs) -> Markup:
    keys = dict.fromkeys(key for run in runs.values() for key in run.config)
    rows = []
    for key in keys:
        settings = [run.config.get(key, "\u2013") for run in runs.values()]
        if key in PATH_KEYS or all(s == settings[0] for s in settings):
            continue
        usual = statistics.mode(str(s) for s in settings)
        cells = [tag("td", s, class_="quiet" if str(s) == usual else None) for s in settings]
        rows.append(tag("tr", tag("th", tag("code", key), scope="row"), *cells))
    if not rows:
        return tag("p", "All keys have the same values.", class_="quiet")
    head = tag("tr", *(tag("th", name, scope="col") for name in ("Key", *runs)))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    return join(
        tag("p", "Keys that do not have the same value in all runs.", class_="quiet"),
        tag("div", table, class_="scroll"),
    )
