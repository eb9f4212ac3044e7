"""Charts as inline SVG: curves over rounds, strips of cases, bars. Colours come from the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedssl.report.axes import (
    Axis,
    label,
    number,
    round_range,
    shortened,
    ticks_between,
    value_range,
)
from fedssl.report.html import Child, Markup, tag

__all__ = ["Bar", "Series", "Strip", "bar_chart", "line_chart", "strip_chart"]

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 30


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Args:
        key: the legend's button of this key switches the curve.
        name: shown beside a value.
        points: (x, y) in order of x; y that is not finite leaves a gap.
        colour: number of the page's palette.
        dash: `solid`, `dashed` or `dotted`.
    """

    key: str
    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dash: str = "solid"


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of a strip chart: named values and a colour."""

    label: str
    values: Sequence[tuple[str, float]]
    colour: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: label, value, text behind it, colour."""

    label: str
    value: float
    text: str
    colour: int


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    note: str = "",
    y_range: tuple[float, float] | None = None,
    rounds: int = 0,
    unit: str = "",
) -> Markup:
    """Return a figure with curves; '' where no curve has a finite point.

    Args:
        title: the figure's caption.
        series: curves.
        note: a second, quieter line of the caption.
        y_range: fixed ends of the y axis; else they follow the values.
        rounds: the axis reaches at least to this round.
        unit: behind values.
    """
    points = [p for s in series for p in s.points if math.isfinite(p[1])]
    if not points:
        return Markup()
    x = Axis(*round_range([*(p[0] for p in points), float(rounds or 1)]), _LEFT, _WIDTH - _RIGHT)
    low, high, y_ticks = value_range([p[1] for p in points], y_range)
    y = Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    drawn = [
        *_grid(y, y_ticks),
        *_x_ticks(x),
        label(_WIDTH - _RIGHT, _HEIGHT - 3, "round", "end", "axis"),
        *(_curve(s, x, y) for s in series),
        tag("line", class_="cursor", x1=0, x2=0, y1=_TOP, y2=_HEIGHT - _BOTTOM),
    ]
    svg = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        tabindex=0,
        aria_label=f"{title}. {_summary(series, unit)}",
        data_x=json.dumps([x.low, x.high, x.start, x.end]),
        data_unit=unit,
    )
    return _figure(title, note, svg, "line")


def strip_chart(
    title: str, strips: Sequence[Strip], *, x_range: tuple[float, float] | None = None, unit: str
) -> Markup:
    """Return a figure with one row per strip: a dot per value, a box from quartile to quartile.

    Args:
        title: the figure's caption.
        strips: rows.
        x_range: fixed ends of the axis; else they follow the values.
        unit: below the axis.
    """
    values = [v for s in strips for _, v in s.values if math.isfinite(v)]
    if not values:
        return Markup()
    low, high, ticks = value_range(values, x_range)
    row, left = 34, 104
    height = 10 + row * len(strips) + _BOTTOM
    x = Axis(low, high, left, _WIDTH - _RIGHT - 8)
    drawn: list[Child] = []
    for tick in ticks:
        drawn += [
            tag("line", class_="grid", x1=x.at(tick), x2=x.at(tick), y1=6, y2=height - _BOTTOM),
            label(x.at(tick), height - _BOTTOM + 14, number(tick), "middle"),
        ]
    for place, strip in enumerate(strips):
        drawn += _strip(strip, x, 10 + row * place + row / 2)
    drawn.append(label(_WIDTH - _RIGHT, height - 3, unit, "end", "axis"))
    counts = ", ".join(f"{s.label}: {len(s.values)} cases" for s in strips)
    svg = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {counts}.",
    )
    return _figure(title, "dots: cases; box: quartiles and median", svg)


def bar_chart(title: str, bars: Sequence[Bar], *, high: float, note: str = "") -> Markup:
    """Return a figure with horizontal bars from 0 to `high`."""
    row, left = 26, 150
    height = row * len(bars) + 8
    x = Axis(0.0, high, left, _WIDTH - 52)
    drawn: list[Child] = []
    for place, bar in enumerate(bars):
        top = place * row + 6
        drawn += [
            label(left - 8, top + 13, shortened(bar.label, 24), "end"),
            tag(
                "rect",
                class_=f"bar c{bar.colour}",
                x=left,
                y=top,
                width=max(0.0, round(x.at(bar.value) - left, 1)),
                height=row - 9,
                rx=3,
            ),
            label(x.at(bar.value) + 6, top + 13, bar.text, "start", "value"),
        ]
    listed = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    svg = tag(
        "svg",
        *drawn,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {listed}.",
    )
    return _figure(title, note, svg)


def _figure(title: str, note: str, svg: Markup, kind: str = "") -> Markup:
    caption = tag("figcaption", title, tag("small", note) if note else None)
    return tag("figure", caption, svg, class_=f"chart {kind}".strip())


def _summary(series: Sequence[Series], unit: str) -> str:
    """Return the last value of every curve, for those who cannot see them."""
    last = {
        s.name: finite[-1]
        for s in series
        if (finite := [y for _, y in s.points if math.isfinite(y)])
    }
    return "Last values: " + ", ".join(f"{k} {number(v)}{unit}" for k, v in last.items())


def _curve(series: Series, x: Axis, y: Axis) -> Markup:
    steps, dots, pen = [], [], "M"
    for at, value in series.points:
        if not math.isfinite(value):
            pen = "M"
            continue
        spot = f"{x.at(at)} {y.at(value)}"
        steps.append(f"{pen}{spot}")
        dots.append(f"M{spot}h0")
        pen = "L"
    kept = [(at, _rounded(v)) for at, v in series.points if math.isfinite(v)]
    few = len(kept) <= 40
    return tag(
        "g",
        tag("path", class_="line", d="".join(steps)),
        tag("path", class_="dots", d="".join(dots)) if few else None,
        class_=f"series c{series.colour} {series.dash}",
        data_key=series.key,
        data_name=series.name,
        data_points=json.dumps(kept, separators=(",", ":")),
    )


def _strip(strip: Strip, x: Axis, middle: float) -> list[Child]:
    values = np.array([v for _, v in strip.values if math.isfinite(v)])
    drawn: list[Child] = [label(96, middle + 4, shortened(strip.label, 16), "end")]
    if not values.size:
        return drawn
    first, median, third = (float(v) for v in np.percentile(values, (25, 50, 75)))
    box = tag(
        "rect",
        class_="box",
        x=x.at(first),
        y=middle - 9,
        width=max(1.0, round(x.at(third) - x.at(first), 1)),
        height=18,
        rx=3,
    )
    bar = tag(
        "line",
        class_="median",
        x1=x.at(median),
        x2=x.at(median),
        y1=middle - 11,
        y2=middle + 11,
    )
    dots = [
        tag(
            "circle",
            tag("title", f"{name}: {number(value)}"),
            cx=x.at(value),
            cy=round(middle + 16 * (_van_der_corput(i) - 0.5), 1),
            r=2.6,
        )
        for i, (name, value) in enumerate(sorted(strip.values, key=lambda item: item[1]))
        if math.isfinite(value)
    ]
    return [*drawn, tag("g", box, bar, *dots, class_=f"strip c{strip.colour}")]


def _van_der_corput(index: int) -> float:
    """Return the index-th point of a sequence that fills [0, 1) evenly: dots do not pile up."""
    value, share = 0.0, 0.5
    while index:
        value += share * (index & 1)
        index >>= 1
        share /= 2
    return value


def _x_ticks(x: Axis) -> list[Child]:
    ticks = ticks_between(x.low, x.high, 7, whole=True)
    return [label(x.at(t), _HEIGHT - _BOTTOM + 15, number(t), "middle") for t in ticks]


def _grid(y: Axis, ticks: Sequence[float]) -> list[Child]:
    drawn: list[Child] = []
    for tick in ticks:
        at = y.at(tick)
        drawn += [
            tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at),
            label(_LEFT - 6, at + 4, number(tick), "end"),
        ]
    return drawn


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
