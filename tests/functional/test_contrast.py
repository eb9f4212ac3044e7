"""Tests of `fedssl.functional.contrast`."""

from __future__ import annotations

import math

import pytest
import torch

from fedssl.functional.contrast import foreground_contrast, masked_means


def test_a_foreground_between_both_prototypes_costs_ln_2():
    # Features (1, 1) have the same cosine with foreground (1, 0) and background (0, 1).
    features = torch.ones(1, 2, 2, 2)
    inside = torch.tensor([[[True, False], [False, False]]])
    loss, counts = foreground_contrast(masked_means(features, inside), torch.eye(2)[None])
    assert loss.tolist() == pytest.approx([math.log(2)])
    assert counts.tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_of_no_length_cost_nothing_and_get_no_gradient(dtype):
    features = torch.zeros(2, 2, 2, 2, dtype=dtype)
    features[1] = 1
    features.requires_grad_()
    inside = torch.ones(2, 2, 2, dtype=torch.bool)
    loss, counts = foreground_contrast(masked_means(features, inside), torch.eye(2)[None])
    assert loss.tolist() == pytest.approx([0.0, math.log(2)])
    assert counts.tolist() == [0.0, 1.0]
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    assert not gradient[0].any()
    assert gradient[1].abs().max() < 2
