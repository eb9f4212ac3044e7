"""Tables of finished runs, from numbers small enough to check by hand."""

from __future__ import annotations

import math

import pytest

from experiments.table import Row, markdown, paired_interval


def row(experiment: str, dice: dict[str, list[float]], point: str = "", role="unlabeled") -> Row:
    """One seed; Dice of each case by site."""
    sites = {
        site: {
            "role": role,
            "dice": {"organ": sum(values) / len(values)},
            "hd95": {"organ": 4.0},
            "assd": {"organ": None},
            "distance_unit": "mm",
        }
        for site, values in dice.items()
    }
    result = {"sites": sites, "wall_seconds": 7.4, "weights_sha256": "0123456789abcdef"}
    cases = {s: {f"case{i}": v for i, v in enumerate(values)} for s, values in dice.items()}
    return Row("set", experiment, point, {0: result}, {0: cases})


def cells(table: str, experiment: str) -> list[str]:
    line = next(x for x in table.splitlines() if x.startswith(f"| {experiment} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_difference_is_paired_within_sites_and_sites_weigh_the_same():
    ours = {("a", "1"): 0.9, ("a", "2"): 0.7, ("b", "1"): 0.5}
    theirs = {("a", "1"): 0.8, ("a", "2"): 0.6, ("b", "1"): 0.2, ("b", "only here"): 0.0}
    # +0.1 and +0.1 at a, +0.3 at b: every draw of cases has the mean (0.1 + 0.3) / 2
    assert paired_interval(ours, theirs) == pytest.approx((0.2, 0.2, 0.2))


def test_an_interval_covers_the_mean_and_nothing_in_common_has_none():
    ours = {("a", str(i)): 0.5 + 0.1 * (i % 3) for i in range(9)}
    mean, low, high = paired_interval(ours, dict.fromkeys(ours, 0.5))
    assert mean == pytest.approx(0.1)
    assert low < mean < high
    assert all(math.isnan(v) for v in paired_interval(ours, {}))


def test_a_row_tells_its_share_of_the_gap():
    point = "labeled-sites=x"
    lower, ours = row("lower", {"a": [0.5, 0.5]}, point), row("ours", {"a": [0.6, 0.6]}, point)
    table = markdown([lower, ours, row("upper", {"a": [0.7, 0.7]})])
    assert cells(table, "ours") == [
        *("ours", "1", "0.600", "0.600", "4.0", "-", "+0.100 [+0.100, +0.100]", "50%", "7"),
        "0123456789ab",
    ]
    assert cells(table, "lower")[6:8] == ["-", "-"]


def test_without_a_gap_beyond_noise_no_share_is_claimed():
    lower, upper = row("lower", {"a": [0.5, 0.6]}), row("upper", {"a": [0.6, 0.5]})
    table = markdown([lower, row("ours", {"a": [0.9, 0.9]}), upper])
    assert cells(table, "ours")[7] == "no gap beyond noise"


def test_a_single_mixed_site_has_its_row():
    lower = row("lower", {"a": [0.5]}, role="mixed")
    table = markdown([lower, row("ours", {"a": [0.6]}, role="mixed")])
    assert cells(table, "ours")[2:4] == ["0.600", "0.600"]
