"""Counts, sums and histograms of sites add up; no value of a single case is in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssl.data.facts import case_facts
from fedssl.data.histograms import (
    add_counts,
    bin_edges,
    intensity_bins,
    length_bin,
    length_of,
    quantile,
    shared_values,
)
from fedssl.data.summary import merge, read_summary, summarise, summary_json
from fedssl.errors import DataError, FederationError
from fedssl.types import Case, Task

TASK = Task("t", ("background", "organ"), mode="3d")


def case(number: int, *, spacing=(2.0, 1.0, 1.0), shape=(4, 6, 8), mask: bool = True) -> Case:
    rng = np.random.default_rng(number)
    image = rng.normal(0, 50, (1, *shape)).astype(np.float32)
    label = (image[0] > 40).astype(np.uint8) if mask else None
    return Case(f"name{number}", f"who{number}", image, label, spacing)


def summary_of(*cases: Case, task: Task = TASK):
    return summarise([case_facts(c, task) for c in cases], task)


@given(st.floats(-(2.0**99), 2.0**99, allow_subnormal=False, width=32))
def test_every_intensity_lies_in_its_bin(value: float):
    (index,) = intensity_bins(np.array([value], dtype=np.float32))
    low, high = bin_edges(index)
    assert low - abs(low) * 1e-5 <= value <= high + abs(high) * 1e-5


def test_bins_of_lengths_are_eight_per_doubling():
    assert [length_bin(v) for v in (0.5, 1, 2, 4)] == [-8, 0, 8, 16]
    assert length_of(8) == 2.0
    assert all(abs(length_of(length_bin(v)) / v - 1) < 0.045 for v in np.linspace(0.3, 900, 500))


def test_quantiles_of_a_histogram_are_those_of_the_values():
    values = np.random.default_rng(0).normal(40, 100, 200_000)
    counts = intensity_bins(values)
    assert sum(counts.values()) == 200_000
    for share in (0.005, 0.5, 0.995):
        exact = np.quantile(values, share)
        assert quantile(counts, share) == pytest.approx(exact, abs=0.05 * abs(exact) + 1)
    assert quantile({5: 1}, 0.0) == bin_edges(5)[0]
    assert quantile({5: 1}, 1.0) == bin_edges(5)[1]


def test_a_value_is_told_only_if_five_cases_share_it():
    assert shared_values([0.625] * 5 + [0.7] * 4) == {"0.625": 5}


def test_a_summary_is_the_same_for_one_site_and_for_its_parts_together():
    cases = [case(i, shape=(4, 6, 8 + i % 2), mask=i % 3 > 0) for i in range(20)]
    whole = summary_of(*cases)
    together = merge([summary_of(*cases[:10]), summary_of(*cases[10:])])
    assert together.intensity.total == pytest.approx(whole.intensity.total, rel=1e-12)
    exact = {"intensity": whole.intensity, "foreground": whole.foreground}
    assert together.model_copy(update=exact) == whole
    assert together.intensity.bins == whole.intensity.bins
    assert (whole.cases, whole.masks, whole.subjects) == (20, 13, 20)


def test_what_is_counted_is_what_is_there():
    cases = [case(i) for i in range(6)]
    found = summary_of(*cases)
    images = np.stack([c.image for c in cases]).astype(np.float64)
    labels = np.stack([c.label for c in cases])
    assert found.intensity.count == images.size
    assert found.intensity.total == pytest.approx(images.sum())
    assert found.intensity.squares == pytest.approx((images**2).sum())
    assert found.class_voxels == {"background": int((labels == 0).sum()), "organ": labels.sum()}
    assert found.foreground.count == labels.sum()
    assert found.axes["depth"].spacing.shared == {"2": 6}
    assert found.axes["depth"].extent.shared == {"8": 6}
    assert found.axes["width"].size.bins == {24: 6}
    assert found.units == {"mm": 6}


def test_unknown_spacings_are_left_out():
    pixel = Case("a", "a", np.ones((1, 4, 5), np.float32), None, (1.0, 1.0), "pixel")
    found = summarise([case_facts(pixel, Task("t", ("b", "f")))], Task("t", ("b", "f")))
    assert found.axes["height"].spacing.bins == {}
    assert list(found.axes) == ["height", "width"]
    assert found.units == {"pixel": 1}


def test_hounsfield_units_are_recognised():
    air = Case("a", "a", np.array([[[-1024.0, 40.0, 900.0]]], np.float32), None, (1.0, 1.0))
    assert case_facts(air, Task("t", ("b", "f"))).hounsfield
    assert not case_facts(case(0), TASK).hounsfield


def test_a_file_is_read_back_and_tells_where_counts_are_small(tmp_path):
    found = summary_of(*(case(i) for i in range(3)))
    path = tmp_path / "summary.json"
    path.write_text(summary_json(found))
    assert read_summary(path) == found
    table = json.loads(path.read_text())
    assert "axes.depth.size" in table["small_counts"]
    assert summary_of(*(case(i) for i in range(5))).small_counts == []
    assert "name" not in path.read_text().replace('"name": "t"', "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no summary of a site"),
        ("[1]", "no summary of a site"),
        ('{"schema": "fedssl.summary/9"}', "schema"),
        ("[" * 100_000, "no summary of a site"),
    ],
)
def test_another_file_is_refused(tmp_path, text, message):
    path = tmp_path / "summary.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_summary(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_summary(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"cases": 0},
        {"masks": -1},
        {"units": {"mm": -3}},
        {"axes": {"depth": {"size": {"bins": {"99999": 3}}}}},
        {"intensity": {"count": 1, "bins": {"99999": 1}}},
    ],
)
def test_numbers_that_no_site_can_have_are_refused(tmp_path, change):
    path = tmp_path / "summary.json"
    table = json.loads(summary_json(summary_of(case(0))))
    path.write_text(json.dumps({**table, **change}))
    with pytest.raises(DataError, match=rf"no summary of a site \({next(iter(change))}"):
        read_summary(path)


def test_sites_of_different_tasks_are_refused():
    other = summary_of(case(1), task=Task("t", ("background", "organ", "tumor"), mode="3d"))
    with pytest.raises(FederationError, match="differ in classes"):
        merge([summary_of(case(0)), other])
    with pytest.raises(FederationError, match="no summary"):
        merge([])
    with pytest.raises(DataError, match="nothing to summarise"):
        summarise([], TASK)


@given(st.lists(st.dictionaries(st.integers(-9, 9), st.integers(1, 99)), max_size=4))
def test_sums_of_histograms_lose_nothing(parts):
    total = add_counts(parts)
    assert sum(total.values()) == sum(sum(p.values()) for p in parts)
    assert list(total) == sorted(total)
