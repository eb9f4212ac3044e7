from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.consensus import (
    Member,
    consensus_weights,
    draw_subsets,
    loss_weights,
    model_distance,
    sub_consensus,
)


def state(*values):
    return {"a": torch.tensor(values[0]), "b": torch.tensor([values[1]]), "n": torch.tensor(3)}


def test_the_distance_adds_the_norms_of_tensors_and_ignores_counters():
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[1.0]]), "n": torch.tensor(9)}
    two = {"a": torch.zeros(2), "b": torch.tensor([[-1.0]]), "n": torch.tensor(1)}
    assert model_distance(one, two) == pytest.approx(5.0 + 2.0)


def test_a_subset_weighs_shares_by_distance_and_counts_labeled_sites_twice():
    members = [
        Member(state([1.0, 0.0], 0.0), 10, labeled=True),
        Member(state([0.0, 0.0], 2.0), 40, labeled=False),
    ]
    merged = sub_consensus(members, labeled_factor=3.0, labeled_scale=5.0, scale=1000.0)
    # mean by 30 and 40 samples: a = 3/7, b = 8/7
    d = [4 / 7 + 8 / 7, 3 / 7 + 6 / 7]
    raw = [30 * 3 * math.exp(-5 * d[0] / 10), 40 * math.exp(-5 * d[1] / 40)]
    share = raw[0] / sum(raw)
    torch.testing.assert_close(merged["a"], torch.tensor([share, 0.0]))
    torch.testing.assert_close(merged["b"], torch.tensor([2 * (1 - share)]))
    assert merged["n"] == 3


def test_without_a_labeled_member_the_other_scale_counts():
    members = [Member(state([float(i), 0.0], 0.0), 1, labeled=False) for i in (0, 1, 5)]
    merged = sub_consensus(members, labeled_factor=3.0, labeled_scale=0.0, scale=50.0)
    # mean 2: distances 2, 1, 3; the nearest takes all but exp(-50)
    torch.testing.assert_close(merged["a"], torch.tensor([1.0, 0.0]))


def test_penalties_that_underflow_keep_their_ratios():
    weights = consensus_weights([1.0, 1.0], [5000.0, 5000.0 + math.log(3)], [1.0, 1.0])
    assert weights == pytest.approx([0.75, 0.25])


def test_a_member_of_weight_zero_takes_no_part():
    assert consensus_weights([0.0, 2.0], [0.0, 9.0], [1.0, 1.0]) == [0.0, 1.0]
    with pytest.raises(ValueError, match="positive weight"):
        consensus_weights([0.0], [1.0], [1.0])


def test_subsets_are_drawn_without_repetition_and_no_larger_than_the_whole():
    subsets = draw_subsets(7, 3, 5, np.random.default_rng(0))
    assert [len(set(s)) for s in subsets] == [5, 5, 5]
    assert all(s == sorted(s) and set(s) <= set(range(7)) for s in subsets)
    assert draw_subsets(2, 2, 5, np.random.default_rng(0)) == [[0, 1], [0, 1]]


def test_loss_weights_by_hand():
    # shares 1/4 and 3/4; losses 4 and 1 to the power 1.5 are 8 and 1
    raw = [0.25 + 10 * 8 / 9, 0.75 + 10 / 9]
    assert loss_weights([10, 30], [4.0, 1.0]) == pytest.approx([w / 11 for w in raw])


def test_a_site_that_kept_nothing_weighs_nothing_whatever_its_loss():
    assert loss_weights([0, 5], [9.0, 0.0]) == [0.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 10)), min_size=1, max_size=6))
def test_loss_weights_sum_to_one(sites):
    counts, losses = [n + 1 for n, _ in sites], [loss for _, loss in sites]
    weights = loss_weights(counts, losses)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
