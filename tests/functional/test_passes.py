"""Tests of `fedssl.functional.passes`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.passes import stochastic_statistics
from fedssl.types import Output

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("output", list(Output))
def test_statistics_equal_mean_and_unbiased_std_of_all_passes_at_once(output):
    z = torch.randn(6, 2, 3, 4, 5, generator=generator(0), dtype=torch.float64) * 3
    if output == Output.EXCLUSIVE:
        prob, flat = z.softmax(2)[:, :, 1:], (z / 2).softmax(2)[:, :, 1:]
    else:
        prob, flat = z.sigmoid(), (z / 2).sigmoid()
    passes = stochastic_statistics((z[t] for t in range(6)), output)
    torch.testing.assert_close(passes.mean_prob, prob.mean(0))
    torch.testing.assert_close(passes.uncertainty, flat.std(0, unbiased=True))


def test_statistics_of_two_passes_by_hand():
    # Sigmoids 0.5 and 0.9; at temperature 2, sigmoid(log(9) / 2) = 3 / (3 + 1) = 0.75.
    z = [torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), math.log(9))]
    mean_prob, uncertainty = stochastic_statistics(z, Output.NESTED)
    assert mean_prob.item() == pytest.approx(0.7)
    assert uncertainty.item() == pytest.approx(0.25 / math.sqrt(2))


@given(seeds, st.integers(1, 12), st.sampled_from(list(Output)))
def test_identical_passes_have_exactly_zero_uncertainty(seed, count, output):
    z = torch.randn(1, 2, 4, 4, generator=generator(seed)) * 5
    passes = stochastic_statistics([z] * count, output)
    assert (passes.uncertainty == 0).all()
    single = stochastic_statistics([z], output)
    assert torch.equal(passes.mean_prob, single.mean_prob)


def test_statistics_without_a_pass_are_refused():
    with pytest.raises(ValueError, match="at least one pass"):
        stochastic_statistics([], Output.NESTED)


def test_half_precision_passes_are_accumulated_in_float32():
    z = [torch.randn(1, 1, 4, 4, generator=generator(t)).bfloat16() for t in range(3)]
    assert stochastic_statistics(z, Output.NESTED).uncertainty.dtype == torch.float32


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_within_groups_only_their_own_spread_counts(group):
    z = torch.randn(6, 2, 3, 4, 5, generator=generator(0), dtype=torch.float64) * 3
    flat = (z / 2).sigmoid().reshape(6 // group, group, 2, 3, 4, 5)
    within = (flat - flat.mean(1, keepdim=True)).square().sum((0, 1))
    passes = stochastic_statistics(list(z), Output.NESTED, group=group)
    expected = (within / max(6 - 6 // group, 1)).sqrt()
    torch.testing.assert_close(passes.uncertainty, expected)
    torch.testing.assert_close(passes.mean_prob, z.sigmoid().mean(0))


def test_groups_that_differ_are_certain_if_each_agrees_with_itself():
    one, other = torch.full((1, 1, 2, 2), -3.0), torch.full((1, 1, 2, 2), 3.0)
    views = [one, one, other, other]
    assert (stochastic_statistics(views, Output.NESTED, group=2).uncertainty == 0).all()
    assert (stochastic_statistics(views, Output.NESTED).uncertainty > 0.3).all()
