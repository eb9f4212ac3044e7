from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from fedssl.functional.metrics import dice, surface_distances


def blobs(seed, shape, density=0.3):
    rng = np.random.default_rng(seed)
    pred, truth = rng.random((2, *shape)) < density
    pred.flat[rng.integers(pred.size)] = True
    truth.flat[rng.integers(truth.size)] = True
    return pred, truth


def surface(mask):
    """Foreground pixels with a neighbour across a side that is background or outside."""
    points = []
    for point in itertools.product(*(range(n) for n in mask.shape)):
        if not mask[point]:
            continue
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            other = list(point)
            other[axis] += step
            if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                points.append(point)
                break
    return points


def brute_force(pred, truth, spacing):
    a, b = surface(pred), surface(truth)

    def nearest(point, others):
        return min(
            math.dist(
                [p * s for p, s in zip(point, spacing, strict=True)],
                [q * s for q, s in zip(other, spacing, strict=True)],
            )
            for other in others
        )

    there, back = sorted(nearest(p, b) for p in a), sorted(nearest(p, a) for p in b)

    def percentile95(values):
        position = 0.95 * (len(values) - 1)
        low = math.floor(position)
        high = min(low + 1, len(values) - 1)
        return values[low] + (position - low) * (values[high] - values[low])

    hd95 = max(percentile95(there), percentile95(back))
    return hd95, (sum(there) + sum(back)) / (len(there) + len(back))


def test_dice_by_hand():
    pred = np.array([[True, True], [False, False]])
    truth = np.array([[True, False], [True, True]])
    assert dice(pred, truth) == pytest.approx(2 / 5)
    assert dice(pred, pred) == 1.0
    assert dice(pred, ~pred) == 0.0


def test_dice_of_empty_masks():
    empty, full = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    assert dice(empty, empty) == 1.0
    assert dice(empty, full) == dice(full, empty) == 0.0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        dice(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool))
    with pytest.raises(ValueError, match="shape"):
        surface_distances(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool), (1, 1))


def test_two_single_pixels_are_their_distance_apart_in_units_of_the_spacing():
    pred, truth = np.zeros((2, 20, 20), dtype=bool)
    pred[3, 4] = truth[6, 8] = True
    assert surface_distances(pred, truth, (1.0, 1.0)).hd95 == pytest.approx(5.0)
    assert surface_distances(pred, truth, (2.0, 0.5)).assd == pytest.approx(math.hypot(6, 2))


def test_concentric_squares_by_hand():
    pred, truth = np.zeros((2, 9, 9), dtype=bool)
    pred[4, 4] = True
    truth[3:6, 3:6] = True
    # The ring has 4 pixels at distance 1 and 4 at sqrt(2); the single pixel is 1 from the ring.
    got = surface_distances(pred, truth, (1, 1))
    assert got.assd == pytest.approx((4 * 1 + 4 * math.sqrt(2) + 1) / 9)
    assert got.hd95 == pytest.approx(math.sqrt(2))


def test_equal_masks_have_distance_zero():
    pred, _ = blobs(0, (5, 6, 4))
    got = surface_distances(pred, pred, (1, 2, 3))
    assert (got.hd95, got.assd) == (0.0, 0.0)


def test_empty_masks_follow_the_stated_rule():
    empty, some = np.zeros((2, 30, 40), dtype=bool)
    some[0, 0] = True
    both = surface_distances(empty, empty, (1, 1))
    assert (both.hd95, both.assd) == (0.0, 0.0)
    for got in (surface_distances(empty, some, (2, 1)), surface_distances(some, empty, (2, 1))):
        assert got.hd95 == got.assd == pytest.approx(math.hypot(60, 40))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, math.nan)])
def test_impossible_spacings_are_refused(spacing):
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(ValueError, match="2 positive spacings"):
        surface_distances(mask, mask, spacing)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([((6, 7), (0.7, 1.3)), ((9, 5), (1, 1)), ((4, 5, 3), (3.0, 0.5, 1.0))]),
    st.sampled_from([0.0, 0.1, 0.4, 0.95]),
)
def test_distances_equal_a_brute_force_computation(seed, grid, density):
    shape, spacing = grid
    pred, truth = blobs(seed, shape, density)
    hd95, assd = brute_force(pred, truth, spacing)
    got = surface_distances(pred, truth, spacing)
    assert got.hd95 == pytest.approx(hd95, rel=1e-5, abs=1e-6)
    assert got.assd == pytest.approx(assd, rel=1e-5, abs=1e-6)
    swapped = surface_distances(truth, pred, spacing)
    assert swapped.hd95 == pytest.approx(got.hd95)
    assert swapped.assd == pytest.approx(got.assd)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((40, 50), (0.8, 1.5)), ((20, 24, 12), (1.0, 1.0, 3.0))]
)
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI, of itself
@pytest.mark.parametrize("border", [True, False])
def test_distances_equal_monai_on_the_whole_image(shape, spacing, border):
    pred, truth = np.zeros((2, *shape), dtype=bool)
    inner = (slice(0, 9),) * len(shape) if border else (slice(2, 11),) * len(shape)
    pred[inner], truth[inner] = blobs(7, pred[inner].shape)
    tensors = [torch.from_numpy(m)[None, None].float() for m in (pred, truth)]
    hd95 = compute_hausdorff_distance(
        *tensors, include_background=True, percentile=95, spacing=list(spacing)
    )
    assd = compute_average_surface_distance(
        *tensors, include_background=True, symmetric=True, spacing=list(spacing)
    )
    got = surface_distances(pred, truth, spacing)
    assert got.hd95 == pytest.approx(hd95.item(), rel=1e-5)
    assert got.assd == pytest.approx(assd.item(), rel=1e-5)


def test_no_warning_is_emitted():
    empty, some = np.zeros((2, 8, 8), dtype=bool)
    some[2:5, 2:5] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for a, b in itertools.product((empty, some), repeat=2):
            surface_distances(a, b, (1.0, 1.0))
            dice(a, b)
