"""Charts: positions follow the values, gaps stay gaps, names are escaped."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.report.axes import Axis, ticks_between, value_range
from fedssl.report.charts import Bar, Series, Strip, bar_chart, line_chart, strip_chart
from fedssl.report.html import Markup, join, tag
from fedssl.report.parts import byte_size, duration, value

finite = st.floats(-1e6, 1e6).map(lambda v: float(f"{v:.6g}"))


def test_an_axis_maps_its_ends_to_its_ends() -> None:
    axis = Axis(0.0, 2.0, 100.0, 0.0)
    assert [axis.at(v) for v in (0.0, 0.5, 2.0)] == [100.0, 75.0, 0.0]


def test_ticks_are_round_numbers_inside() -> None:
    assert ticks_between(0.0, 1.0, 6) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks_between(1.0, 12.0, 7, whole=True) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert ticks_between(1.0, 3.0, 7, whole=True) == [1.0, 2.0, 3.0]


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=20))
def test_all_values_lie_on_their_axis(values: list[float]) -> None:
    low, high, ticks = value_range(values)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert low - slack <= min(values) <= max(values) <= high + slack
    assert low < high
    assert ticks


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    points = [(1.0, 0.5), (2.0, math.nan), (3.0, 0.25), (4.0, 0.0)]
    chart = line_chart("Loss", [Series("a", "a", points, 0)], y_range=(0.0, 1.0))
    assert json.dumps([[1.0, 0.5], [3.0, 0.25], [4.0, 0.0]]).replace(" ", "") in chart
    # x from 46 to 408 for rounds 1 to 4, y from 210 to 12 for 0 to 1.
    assert 'd="M46.0 111.0M287.3 160.5L408.0 210.0"' in chart


def test_a_chart_without_values_is_nothing() -> None:
    assert line_chart("Loss", [Series("a", "a", [(1.0, math.inf)], 0)]) == ""
    assert strip_chart("Dice", [], unit="Dice") == ""


def test_names_are_escaped_in_charts() -> None:
    charts = [
        line_chart("<b>", [Series("<i>", "<u>", [(1.0, 0.5)], 0)]),
        strip_chart("<b>", [Strip("<i>", [("<u>", 0.5)], 0)], unit="<s>"),
        bar_chart("<b>", [Bar("<i>", 0.5, "<u>", 0)], high=1.0),
    ]
    for chart in charts:
        assert not any(bad in chart for bad in ("<b>", "<i>", "<u>", "<s>"))
        assert "&lt;b&gt;" in chart


def test_a_strip_shows_every_case_and_its_quartiles() -> None:
    values = [(f"c{i}", i / 4) for i in range(5)]
    chart = strip_chart("Dice", [Strip("north", values, 0)], x_range=(0.0, 1.0), unit="Dice")
    assert chart.count("<circle") == 5
    # x from 104 to 400: quartiles 0.25 and 0.75, median 0.5.
    assert 'class="box" x="178.0"' in chart
    assert 'width="148.0"' in chart
    assert 'class="median" x1="252.0"' in chart


def test_bars_are_as_long_as_their_values() -> None:
    chart = bar_chart("Dice", [Bar("a", 0.5, "0.500", 0), Bar("b", 1.0, "1.000", 1)], high=1.0)
    assert 'width="109.0"' in chart
    assert 'width="218.0"' in chart


def test_markup_is_escaped_once() -> None:
    inner = tag("b", "<x> & 'y'", title='"')
    assert inner == '<b title="&quot;">&lt;x&gt; &amp; &#x27;y&#x27;</b>'
    assert tag("p", inner, None, 3) == f"<p>{inner}3</p>"
    assert join("a<", Markup("<br/>")) == "a&lt;<br/>"
    assert tag("input", disabled=True, hidden=False, data_x=0) == '<input disabled data-x="0"/>'


def test_numbers_keep_their_exact_value_beside_the_rounded_one() -> None:
    assert value(0.1 + 0.2, 3) == '<data value="0.30000000000000004">0.300</data>'
    assert "data" not in value(None, 3)


def test_durations_and_sizes_are_for_people() -> None:
    assert [duration(s) for s in (1.234, 119.0, 600.0, 11100.0)] == [
        "1.2 s",
        "119.0 s",
        "10 min",
        "3 h 05 min",
    ]
    assert [byte_size(n) for n in (0, 999, 1500, 2.5e6, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3.0 TB",
    ]
