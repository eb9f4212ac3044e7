from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.schedules import linear_ramp, poly, sigmoid_ramp

steps = st.floats(-10, 200)


def test_sigmoid_ramp_at_its_ends_and_middle():
    assert sigmoid_ramp(0, 40) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(20, 40) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(40, 40) == sigmoid_ramp(100, 40) == 1.0


@pytest.mark.parametrize("length", [0, -3])
def test_no_length_means_no_ramp(length):
    assert sigmoid_ramp(0, length) == 1.0


@given(steps, steps, st.floats(1, 100))
def test_sigmoid_ramp_never_falls(a, b, length):
    low, high = sorted((a, b))
    assert math.exp(-5) <= sigmoid_ramp(low, length) <= sigmoid_ramp(high, length) <= 1


def test_linear_ramp_by_hand():
    assert [linear_ramp(t, 10, 4, 1.0, 0.6) for t in (0, 10, 11, 12, 14, 99)] == pytest.approx(
        [1.0, 1.0, 0.9, 0.8, 0.6, 0.6]
    )


def test_linear_ramp_reaches_its_ends_exactly():
    assert linear_ramp(3, 3, 7, 1.0, 0.7) == 1.0
    assert linear_ramp(10, 3, 7, 1.0, 0.7) == 0.7


def test_linear_ramp_without_length_is_a_jump():
    assert linear_ramp(4, 5, 0, 1.0, 0.5) == 1.0
    assert linear_ramp(5, 5, 0, 1.0, 0.5) == 0.5


def test_poly_at_its_ends_and_middle():
    assert poly(0, 10) == 1.0
    assert poly(5, 10) == pytest.approx(0.5**0.9)
    assert poly(5, 10, power=2) == 0.25
    assert poly(10, 10) == poly(11, 10) == 0.0


def test_poly_refuses_an_empty_run():
    with pytest.raises(ValueError, match="total"):
        poly(0, 0)
