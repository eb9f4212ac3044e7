from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.denoising import (
    Prototypes,
    denoise_nested,
    downsample_features,
    largest_component,
    prototype_label,
    prototype_sums,
    prototypes,
    pseudo_label,
    retained_fraction,
    to_feature_grid,
    trust_mask,
    upsample_nearest,
)
from fedssl.functional.passes import stochastic_statistics
from fedssl.types import Output

seeds = st.integers(0, 2**31)
MODES = ["none", "uncertainty", "prototype", "both"]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def maps(seed, foreground=2, size=(4, 5), batch=2):
    g = generator(seed)
    prob = torch.rand(batch, foreground, *size, generator=g)
    uncertainty = torch.rand(batch, foreground, *size, generator=g) * 0.1
    features = torch.randn(batch, 3, *size, generator=g)
    return features, pseudo_label(prob, 0.6), prob, uncertainty


def test_pseudo_label_is_strictly_above_the_threshold():
    prob = torch.tensor([0.74, 0.75, 0.76]).reshape(1, 1, 3)
    label = pseudo_label(prob, 0.75)
    assert label.dtype == torch.uint8
    assert label.tolist() == [[[0, 0, 1]]]


@given(seeds, st.sampled_from([(4, 5), (2, 3, 2)]), st.floats(0.0, 0.12), st.integers(1, 3))
def test_prototypes_and_their_labels_equal_a_literal_loop(seed, size, eta, foreground):
    features, label, prob, uncertainty = maps(seed, foreground, size)
    got = prototypes(prototype_sums(features, label, prob, uncertainty, eta))
    agreed = prototype_label(features, got)
    f, y, p, u = (t.double().flatten(2) for t in (features, label, prob, uncertainty))
    pixels = [(b, n) for b in range(f.shape[0]) for n in range(f.shape[2])]
    for c in range(foreground):
        z = {0: torch.zeros(3, dtype=torch.float64), 1: torch.zeros(3, dtype=torch.float64)}
        weight = {0: 0.0, 1: 0.0}
        for b, n in pixels:
            if uncertainty.flatten(2)[b, c, n] < eta:
                side = int(y[b, c, n])
                w = p[b, c, n] if side else 1 - p[b, c, n]
                z[side] += w * f[b, :, n]
                weight[side] += float(w)
        assert bool(got.valid[c]) == (weight[0] > 0 and weight[1] > 0)
        if not got.valid[c]:
            assert (got.object[c] == 0).all()
            continue
        torch.testing.assert_close(got.object[c], z[1] / weight[1])
        torch.testing.assert_close(got.background[c], z[0] / weight[0])
        for b, n in pixels:
            d_object = ((f[b, :, n] - z[1] / weight[1]) ** 2).sum()
            d_background = ((f[b, :, n] - z[0] / weight[0]) ** 2).sum()
            if (d_object - d_background).abs() > 1e-9:
                assert bool(agreed.flatten(2)[b, c, n]) == bool(d_object < d_background)
    assert u.shape == y.shape


def test_prototype_sums_add_up_over_batches():
    features, label, prob, uncertainty = maps(3, batch=4)
    whole = prototype_sums(features, label, prob, uncertainty, 0.05)
    parts = [
        prototype_sums(features[i], label[i], prob[i], uncertainty[i], 0.05)
        for i in (slice(0, 1), slice(1, 4))
    ]
    joined = parts[0] + parts[1]
    for name in ("object_sum", "object_weight", "background_sum", "background_weight"):
        assert getattr(whole, name).dtype == torch.float64
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))


def test_without_reliable_pixels_nothing_is_valid_and_nothing_is_nan():
    features, label, prob, uncertainty = maps(5)
    got = prototypes(prototype_sums(features, label, prob, uncertainty, 0.0))
    assert not got.valid.any()
    assert (got.object == 0).all()
    assert (got.background == 0).all()
    assert (prototype_label(features, got) == 0).all()
    mask = trust_mask(label, uncertainty, label * 0, got.valid, eta=1.0, mode="both")
    assert (mask == 1).all()


def test_unreliable_pixels_cannot_poison_a_prototype_weight():
    features, label, prob, uncertainty = maps(6)
    prob[0, 0, 0, 0], uncertainty[0, 0, 0, 0] = math.nan, math.nan
    sums = prototype_sums(features, label, prob, uncertainty, 0.05)
    assert torch.isfinite(sums.object_weight).all()
    assert torch.isfinite(sums.background_sum).all()


def test_a_pixel_between_equal_prototypes_is_background():
    same = torch.ones(1, 2, dtype=torch.float64)
    tied = prototype_label(torch.randn(1, 2, 3, 3), Prototypes(same, same, torch.tensor([True])))
    assert tied.dtype == torch.uint8
    assert not tied.any()


def test_feature_grid_takes_labels_nearest_and_statistics_with_aligned_corners():
    ramp = torch.arange(8.0).expand(8, 8).reshape(1, 1, 8, 8)
    label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    label[..., 4:] = 1
    grid = to_feature_grid(label, ramp, 2 * ramp, (2, 2))
    assert grid.label.dtype == torch.uint8
    assert grid.label.tolist() == [[[[0, 1], [0, 1]]]]
    assert grid.prob.tolist() == [[[[0, 7], [0, 7]]]]
    assert grid.uncertainty.tolist() == [[[[0, 14], [0, 14]]]]


@pytest.mark.parametrize("size", [(8, 12), (3, 9), (8, 6, 4), (1, 2, 30)])
def test_features_and_maps_meet_on_one_grid_that_is_never_empty(size):
    features, label, prob, uncertainty = maps(0, size=size)
    small = downsample_features(features, 4)
    grid = to_feature_grid(label, prob, uncertainty, tuple(small.shape[2:]))
    expected = tuple(max(1, s // 4) for s in size)
    assert small.shape[2:] == grid.label.shape[2:] == grid.prob.shape[2:] == expected
    assert upsample_nearest(grid.label, size).shape == label.shape


def test_features_are_averaged_over_cells():
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert downsample_features(features, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_nearest_upsampling_repeats_pixels_and_keeps_the_dtype():
    x = torch.tensor([[1, 0]], dtype=torch.uint8).reshape(1, 1, 1, 2)
    up = upsample_nearest(x, (2, 4))
    assert up.dtype == torch.uint8
    assert up.tolist() == [[[[1, 1, 0, 0]] * 2]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [1, 1, 1, 1]),
        ("uncertainty", [1, 1, 0, 0]),
        ("prototype", [1, 0, 1, 0]),
        ("both", [1, 0, 0, 0]),
    ],
)
def test_trust_by_hand(mode, expected):
    label = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).reshape(1, 1, 4)
    proto = torch.tensor([1, 0, 0, 1], dtype=torch.uint8).reshape(1, 1, 4)
    uncertainty = torch.tensor([0.04, 0.04, 0.05, 0.06]).reshape(1, 1, 4)
    mask = trust_mask(label, uncertainty, proto, None, eta=0.05, mode=mode)
    assert mask.dtype == torch.uint8
    assert mask.flatten().tolist() == expected


def test_the_prototype_test_is_off_for_classes_without_prototypes():
    _, label, _, uncertainty = maps(2)
    valid = torch.tensor([False, True])
    mask = trust_mask(label, uncertainty, 1 - label, valid, eta=1.0, mode="prototype")
    assert (mask[:, 0] == 1).all()
    assert (mask[:, 1] == 0).all()


@given(seeds, st.sampled_from(MODES), st.floats(0, 0.1), st.floats(0, 0.1), st.integers(1, 3))
def test_trust_is_binary_and_monotone_in_eta(seed, mode, a, b, foreground):
    _, label, _, uncertainty = maps(seed, foreground)
    proto = maps(seed + 1, foreground)[1]
    low, high = (
        trust_mask(label, uncertainty, proto, None, eta=eta, mode=mode) for eta in sorted((a, b))
    )
    assert set(torch.cat((low, high)).unique().tolist()) <= {0, 1}
    assert (low <= high).all()


def test_with_dropout_off_the_uncertainty_test_passes_everywhere():
    z = torch.randn(1, 2, 4, 4, generator=generator(1))
    passes = stochastic_statistics([z] * 10, Output.NESTED)
    label = pseudo_label(passes.mean_prob, 0.75)
    mask = trust_mask(label, passes.uncertainty, None, None, eta=1e-9, mode="uncertainty")
    assert (mask == 1).all()


def test_trust_refuses_a_missing_prototype_label_and_an_unknown_mode():
    _, label, _, uncertainty = maps(0)
    with pytest.raises(ValueError, match="proto_label"):
        trust_mask(label, uncertainty, None, None, eta=0.05, mode="both")
    with pytest.raises(ValueError, match="'all'"):
        trust_mask(label, uncertainty, None, None, eta=0.05, mode="all")


def test_nested_repair_zeroes_the_trust_of_what_it_changed():
    label = torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.uint8).reshape(1, 2, 3)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.uint8).reshape(1, 2, 3)
    repaired, trusted = denoise_nested(label, mask)
    assert repaired.tolist() == [[[1, 0, 0], [1, 0, 0]]]
    assert trusted.tolist() == [[[1, 1, 0], [1, 0, 1]]]
    assert repaired.dtype == trusted.dtype == torch.uint8


def test_only_the_largest_component_remains():
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], dtype=np.uint8)
    expected = np.array([[0, 0, 1, 1], [0, 0, 0, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(largest_component(mask), expected)
    empty = np.zeros((2, 2, 2), dtype=np.uint8)
    np.testing.assert_array_equal(largest_component(empty), empty)


def test_retained_fraction_counts_pixels_per_class():
    mask = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]])
    assert retained_fraction(mask).tolist() == [0.75, 0.125]


def test_of_exclusive_classes_the_likeliest_is_labeled_even_with_a_low_threshold():
    prob = torch.tensor([[[[0.45, 0.2]], [[0.40, 0.1]]]])
    assert pseudo_label(prob, 0.3, Output.EXCLUSIVE).tolist() == [[[[1, 0]], [[0, 0]]]]
    assert pseudo_label(prob, 0.3, Output.NESTED).tolist() == [[[[1, 0]], [[1, 0]]]]
