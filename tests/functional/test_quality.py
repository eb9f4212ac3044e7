from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.functional.losses import reduce_term
from fedssl.functional.quality import (
    CorrelationSums,
    gate,
    image_quality,
    quality_regulariser,
    quality_weights,
)
from fedssl.types import Term


def test_weights_by_hand_are_a_power_above_a_closed_threshold():
    quality = torch.tensor([0.0, 0.49, 0.5, 0.8, 1.0])
    weights = quality_weights(quality)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.0, 0.25, 0.64, 1.0]))
    torch.testing.assert_close(
        quality_weights(quality, gamma=1.0, threshold=0.0), quality, rtol=0, atol=1e-7
    )


def test_weights_carry_no_gradient():
    quality = torch.tensor([0.9, 0.2], requires_grad=True)
    assert not quality_weights(quality).requires_grad


def test_no_pseudo_label_above_the_threshold_gives_loss_zero_not_nan():
    loss = torch.ones(4, requires_grad=True)
    weights = quality_weights(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    value = reduce_term(Term("t", loss, torch.ones(4)), weights)
    value.backward()
    assert value.item() == 0.0
    assert loss.grad.tolist() == [0.0] * 4


def test_a_common_factor_of_the_quality_cancels_in_the_weighted_loss():
    loss, quality = torch.tensor([0.3, 0.7, 0.1]), torch.tensor([0.9, 0.7, 0.8])
    term = Term("t", loss, torch.ones(3))
    a = reduce_term(term, quality_weights(quality, threshold=0.0))
    b = reduce_term(term, quality_weights(0.5 * quality, threshold=0.0))
    assert a.item() == pytest.approx(b.item(), rel=1e-5)
    expected = (0.81 * 0.3 + 0.49 * 0.7 + 0.64 * 0.1) / (0.81 + 0.49 + 0.64)
    assert a.item() == pytest.approx(expected, rel=1e-5)


def test_regulariser_is_one_minus_the_mean():
    quality = torch.tensor([[0.2, 0.4], [0.6, 0.8]], requires_grad=True)
    value = quality_regulariser(quality)
    value.backward()
    assert value.item() == pytest.approx(0.5)
    torch.testing.assert_close(quality.grad, torch.full((2, 2), -0.25))


def test_image_quality_averages_the_classes_that_the_mask_contains():
    mask = torch.zeros(3, 2, 2, 2)
    mask[0, 0] = mask[1] = 1
    quality = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.8, 0.4]])
    torch.testing.assert_close(image_quality(quality, mask), torch.tensor([0.9, 0.5, 0.6]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 50), sites=st.integers(1, 4))
def test_pooled_correlation_equals_that_of_all_pairs(seed, n, sites):
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    y = np.clip(0.5 * x + 0.5 * rng.random(n), 0, 1)
    pooled = CorrelationSums()
    for part in np.array_split(np.arange(n), sites):
        pooled += CorrelationSums.of(torch.tensor(x[part]), torch.tensor(y[part]))
    assert pooled.n == n
    assert pooled.pearson() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_correlation_by_hand():
    x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    sums = CorrelationSums.of(x, y)
    assert sums == CorrelationSums(3, 3, 2, 5, 2, 3)
    assert sums.pearson() == pytest.approx(math.sqrt(3) / 2)
    assert CorrelationSums.of(x, -x).pearson() == -1.0


def test_a_constant_score_or_no_pair_correlates_with_nothing():
    x = torch.rand(10, generator=torch.Generator().manual_seed(0))
    assert CorrelationSums.of(x, torch.full((10,), 0.3)).pearson() == 0.0
    assert CorrelationSums().pearson() == 0.0
    assert CorrelationSums.of(x[:1], x[:1]).pearson() == 0.0


def test_sums_survive_the_trip_as_a_tensor():
    x = torch.rand(7, generator=torch.Generator().manual_seed(1))
    sums = CorrelationSums.of(x, x.square())
    sent = sums.to_tensor()
    assert sent.shape == (6,)
    assert sent.dtype == torch.float64
    assert CorrelationSums.from_tensor(sent) == sums


def test_scores_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="do not pair"):
        CorrelationSums.of(torch.ones(3), torch.ones(4))


def correlated(r, n=4000):
    generator = torch.Generator().manual_seed(2)
    x, e = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return CorrelationSums.of(x, r * x + math.sqrt(1 - r**2) * e)


@pytest.mark.parametrize(
    ("normal", "blackout", "open_"),
    [(0.9, 0.2, True), (0.5, 0.2, False), (0.9, 0.95, False), (0.5, 0.95, False)],
)
def test_the_gate_wants_agreement_with_the_truth_and_a_look_at_the_image(normal, blackout, open_):
    assert gate(correlated(normal), correlated(blackout)) is open_


def test_the_gate_stays_shut_for_a_predictor_that_says_nan():
    broken = CorrelationSums.of(torch.tensor([math.nan, 0.5, 0.3]), torch.tensor([0.1, 0.2, 0.9]))
    assert math.isnan(broken.pearson())
    for normal, blackout in (
        (broken, broken),
        (broken, correlated(0.2)),
        (correlated(0.9), broken),
    ):
        assert not gate(normal, blackout, max_blackout=1.01)


def test_the_gate_stays_shut_for_a_predictor_that_says_one_number():
    constant = CorrelationSums.of(torch.full((9,), 0.8), torch.linspace(0, 1, 9))
    assert not gate(constant, constant)
