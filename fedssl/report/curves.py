"""Everything that has one value per round, as curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedssl.report.charts import Series, line_chart
from fedssl.report.html import Markup, join, tag
from fedssl.report.load import Run
from fedssl.report.parts import Look, legend, mean, site_looks

__all__ = ["curves", "validation_dice"]

_TITLES = {
    "loss": "Training loss",
    "loss/supervised": "Loss on masks",
    "loss/pseudo": "Loss on pseudo-labels",
    "retained": "Retained fraction of the pseudo-labels",
    "cases_kept": "Cases that are trained on",
    "mu": "mu: weight of the labeled group",
    "group_distance": "Distance of the two groups' averages",
}
_SHARES = ("retained", "mu")
_COMPARED = {
    "precision": "Pseudo-label precision",
    "accuracy": "Pseudo-label accuracy",
}
_RAW = "solid: trusted pixels only; dotted: all pixels"

Points = dict[str, list[tuple[float, float]]]
Record = Mapping[str, Any]


def curves(run: Run) -> Markup:
    """Return the legend and all charts that the run has values for."""
    roles = {name: str(site["role"]) for name, site in run.sites.items()}
    looks = site_looks(roles)
    parts = [legend(looks, roles, "Sites:")]
    groups = {
        "Validation": _validation(run, looks),
        "Pseudo-labels against hidden masks": _pseudo(run, looks),
        "Training": _training(run, looks),
        "Coordinator": _coordinator(run),
    }
    for title, charts in groups.items():
        drawn = [chart for chart in charts if chart]
        if drawn:
            parts += [tag("h2", title), tag("div", *drawn, class_="charts")]
    if not any(groups["Validation"]):
        every = run.config.get("evaluate.every", "unknown")
        note = f"No validation during the {len(run.rounds)} rounds (evaluate.every = {every})."
        parts.insert(1, tag("p", note, class_="quiet"))
    return join(*parts)


def validation_dice(records: Iterable[Record]) -> list[tuple[float, float]]:
    """Return (rounds done, mean validation Dice over sites and classes)."""
    points = []
    for record in records:
        sites = []
        for result in record["evaluation"].values():
            dices = [v for k, v in result["metrics"].items() if k.startswith("dice/")]
            sites.append(mean(dices))
        average = mean(sites)
        if average is not None:
            points.append((record["round"] + 1.0, average))
    return points


def _points(run: Run, read: Callable[[Record], Mapping[str, float]]) -> Points:
    """Collect (rounds done, value) by site or name."""
    found: Points = {}
    for record in run.rounds:
        for name, number in read(record).items():
            found.setdefault(name, []).append((record["round"] + 1.0, number))
    return found


def _series(
    points: Points, looks: Mapping[str, Look], dash: str = "", what: str = ""
) -> list[Series]:
    return [
        Series(site, f"{site}{what}", points[site], look.colour, dash or look.dash)
        for site, look in looks.items()
        if site in points
    ]


def _evaluated(run: Run, key: str) -> Points:
    def read(record: Record) -> dict[str, float]:
        results = record["evaluation"].items()
        return {site: r["metrics"][key] for site, r in results if key in r["metrics"]}

    return _points(run, read)


def _validation(run: Run, looks: Mapping[str, Look]) -> list[Markup]:
    return [
        _chart(
            run,
            f"Validation Dice, {name}",
            _series(_evaluated(run, f"dice/{name}"), looks),
            fixed=True,
        )
        for name in run.foreground
    ]


def _pseudo(run: Run, looks: Mapping[str, Look]) -> list[Markup]:
    charts = []
    for name in run.foreground:
        dice = _series(_evaluated(run, f"pseudo_dice/{name}"), looks)
        charts.append(_chart(run, f"Pseudo-label Dice, {name}", dice, fixed=True))
        for key, title in _COMPARED.items():
            raw = _evaluated(run, f"pseudo_{key}/{name}")
            trusted = _evaluated(run, f"trusted_{key}/{name}")
            series = _series(trusted, looks, "solid", ", trusted")
            series += _series(raw, looks, "dotted", ", all")
            charts.append(_chart(run, f"{title}, {name}", series, note=_RAW))
    return charts


def _training(run: Run, looks: Mapping[str, Look]) -> list[Markup]:
    found = [m for record in run.rounds for m in record["sites"].values()]
    keys = dict.fromkeys(key for metrics in found for key in metrics)
    # Where a site has but one term, its total says nothing new.
    if all(sum(key.startswith("loss/") for key in metrics) <= 1 for metrics in found):
        keys.pop("loss", None)
    if not any(metrics.get("steps_skipped") for metrics in found):
        keys.pop("steps_skipped", None)
    charts = []
    for key in sorted(keys, key=lambda key: (key != "loss", not key.startswith("loss/"))):

        def read(record: Record, key: str = key) -> dict[str, float]:
            return {site: m[key] for site, m in record["sites"].items() if key in m}

        series = _series(_points(run, read), looks)
        charts.append(_chart(run, _TITLES.get(key, key), series, fixed=key in _SHARES))
    return charts


def _chart(
    run: Run,
    title: str,
    series: list[Series],
    *,
    fixed: bool = False,
    note: str = "",
    unit: str = "",
) -> Markup:
    """Return a chart over all rounds of the run; `fixed` has y from 0 to 1."""
    ends = (0.0, 1.0) if fixed else None
    rounds = int(run.results["rounds"])
    return line_chart(title, series, note=note, y_range=ends, rounds=rounds, unit=unit)


def _coordinator(run: Run) -> list[Markup]:
    rule = _points(run, lambda record: record["rule"])
    charts = [
        _chart(run, _TITLES.get(key, key), [Series(key, key, points, 0)], fixed=key in _SHARES)
        for key, points in rule.items()
    ]
    seconds = [(r["round"] + 1.0, float(r["seconds"])) for r in run.rounds]
    charts.append(_chart(run, "Seconds per round", [Series("time", "time", seconds, 0)], unit=" s"))
    traffic = [
        Series(key, name, [(r["round"] + 1.0, r[key] / 1e6) for r in run.rounds], colour, dash)
        for key, name, colour, dash in (
            ("bytes_up", "sent by sites", 0, "solid"),
            ("bytes_down", "sent to sites", 1, "dashed"),
        )
    ]
    note = "in MB; solid: sent by sites; dashed: sent to sites"
    return [*charts, _chart(run, "Traffic per round", traffic, note=note, unit=" MB")]
