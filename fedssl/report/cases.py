"""The page's part about cases: how their scores spread, pictures, and a table of all of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssl.report.charts import Strip, strip_chart
from fedssl.report.figure import PANEL_TITLES
from fedssl.report.html import Child, Markup, join, tag
from fedssl.report.load import Run
from fedssl.report.parts import mean, site_looks, tabs, value

__all__ = ["cases"]

_METRICS = {"dice": "Dice", "hd95": "HD95", "assd": "ASSD"}
_KINDS = {
    "test": "Test cases, from the lowest to the highest Dice",
    "prediction": "Predictions; there is no mask to compare with",
    "pseudo": "Training cases with pseudo-labels, from the least to the most trusted",
}
_WORDS = {1: "", 2: " two", 3: " three"}


def cases(run: Run) -> Markup:
    """Return the part, empty where cases stayed at the sites."""
    if not run.cases and not run.overlays:
        return Markup()
    return join(_distributions(run), _pictures(run), _table(run))


def _distributions(run: Run) -> Markup:
    roles = {name: str(site["role"]) for name, site in run.sites.items()}
    looks = site_looks(roles)
    charts = []
    for metric in ("dice", "hd95"):
        for class_ in run.foreground:
            strips = [
                Strip(site, values, looks[site].colour)
                for site, lines in run.cases.items()
                if (values := _values(lines, metric, class_))
            ]
            fixed = (0.0, 1.0) if metric == "dice" else None
            unit = "Dice" if metric == "dice" else f"HD95 in {_unit(run)}"
            title = f"{_METRICS[metric]} per case, {class_}"
            charts.append(strip_chart(title, strips, x_range=fixed, unit=unit))
    drawn = [chart for chart in charts if chart]
    if not drawn:
        return Markup()
    return join(tag("h2", "How cases spread"), tag("div", *drawn, class_="charts"))


def _values(
    lines: Sequence[Mapping[str, Any]], metric: str, class_: str
) -> list[tuple[str, float]]:
    return [(line["name"], line[metric][class_]) for line in lines if class_ in line[metric]]


def _unit(run: Run) -> str:
    units = {str(site["distance_unit"]) for site in run.sites.values()}
    return " or ".join(sorted(units)).replace("pixel", "pixels")


def _pictures(run: Run) -> Markup:
    panels = {site: _site_pictures(run, site) for site in run.overlays}
    if not panels:
        return Markup()
    return join(
        tag("h2", "Pictures"),
        tabs("site", "Sites", panels, inner=True),
    )


def _site_pictures(run: Run, site: str) -> Markup:
    parts: list[Child] = []
    for kind, title in _KINDS.items():
        found = [entry for entry in run.overlays[site] if entry["kind"] == kind]
        if found:
            folder = run.site_folder(site) / "overlays"
            cards = [_card(entry, folder, site) for entry in found]
            parts += [tag("h3", title), tag("div", *cards, class_="cases")]
    return join(*parts)


def _card(entry: Mapping[str, Any], folder: Path, site: str) -> Markup:
    files = {name: folder / file for name, file in entry["layers"].items()}
    images = {name: _data_uri(path) for name, path in files.items() if path.is_file()}
    names = list(images)
    count = len(entry["slices"])
    style = [f"--{name}:url({uri})" for name, uri in images.items()]
    style += [f"--n:{count}", f"--d:{max(1, count - 1)}", f"--slice:{entry['start']}"]
    numbers = ", ".join(f"{name} {number:.3f}" for name, number in entry["values"].items())
    head = tag(
        "header",
        tag("h4", entry["case"]),
        tag("span", entry["note"], f"; {numbers}" if numbers else None, class_="quiet"),
        tag("button", "enlarge", type="button", class_="plain enlarge", aria_pressed="false"),
    )
    gone = None
    if len(images) < len(files):
        gone = tag("p", "Some pictures are gone from disk.", class_="note")
    figures = [_panel(name, entry, site) for name in names]
    return tag(
        "article",
        head,
        tag("div", *figures, class_=f"panels{_WORDS.get(len(names), '')}"),
        gone,
        _slider(entry) if count > 1 else None,
        class_="case",
        style=";".join(style),
    )


def _panel(name: str, entry: Mapping[str, Any], site: str) -> Markup:
    title = PANEL_TITLES[name]
    layers = "var(--image)" if name == "image" else f"var(--{name}),var(--image)"
    picture = tag(
        "div",
        role="img",
        aria_label=f"{title} of {entry['case']}, site {site}",
        class_="picture",
        style=f"background-image:{layers};aspect-ratio:{entry['aspect']:.4f}",
    )
    keys = [
        tag("span", tag("i", style=f"background:{colour}"), meaning)
        for meaning, colour in entry["legends"].get(name, {}).items()
    ]
    caption = tag("figcaption", title, tag("span", *keys, class_="keys") if keys else None)
    return tag("figure", picture, caption)


def _slider(entry: Mapping[str, Any]) -> Markup:
    slices, start, depth = entry["slices"], entry["start"], entry["depth"]
    text = f"{slices[start] + 1} of {depth}"
    field = tag(
        "input",
        type="range",
        min=0,
        max=len(slices) - 1,
        value=start,
        aria_valuetext=f"slice {text}",
        data_slices=json.dumps(slices),
        data_depth=depth,
    )
    return tag("label", "Slice", field, tag("output", text), class_="slider")


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(run: Run) -> Markup:
    classes = run.foreground
    metrics = [m for m in _METRICS if any(ln[m] for lines in run.cases.values() for ln in lines)]
    several = len(classes) > 1
    names = ["Site", "Case"] + (["mean Dice"] if several else [])
    names += [f"{_METRICS[m]} {c}" if several else _METRICS[m] for m in metrics for c in classes]
    head = [
        tag(
            "th",
            tag("button", name, type="button", class_="sort"),
            scope="col",
            class_="num" if place > 1 else None,
        )
        for place, name in enumerate(names)
    ]
    lines = [(site, line) for site, found in run.cases.items() for line in found]
    lines.sort(key=lambda item: mean(list(item[1]["dice"].values())) or 0.0)
    if not lines:
        return Markup()
    rows = [_row(site, line, metrics, classes, several) for site, line in lines]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="all-cases")
    return tag(
        "details",
        tag("summary", f"All {len(rows)} test cases, lowest Dice first"),
        tag("div", table, class_="scroll"),
    )


def _row(
    site: str,
    line: Mapping[str, Any],
    metrics: Sequence[str],
    classes: Sequence[str],
    several: bool,
) -> Markup:
    cells = [tag("td", site), tag("td", line["name"])]
    if several:
        cells.append(tag("td", value(mean(list(line["dice"].values())), 3), class_="num"))
    for metric in metrics:
        digits = 3 if metric == "dice" else 2
        cells += [tag("td", value(line[metric].get(c), digits), class_="num") for c in classes]
    return tag("tr", *cells)
