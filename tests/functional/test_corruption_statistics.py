"""Statistics of the corruptions against those of the released generator."""

from __future__ import annotations

import numpy as np
import pytest

from fedssl.functional.corruption import OPERATIONS, corrupt, dice

# Mean Dice that was measured for the released generator on blobs of 14 % area.
PUBLISHED = {
    "erosion_5": 0.931,
    "erosion_7": 0.895,
    "erosion_9": 0.857,
    "erosion_11": 0.817,
    "dilation_5": 0.937,
    "dilation_7": 0.908,
    "dilation_9": 0.88,
    "dilation_11": 0.854,
    "polygon_3": 0.55,
    "polygon_5": 0.872,
    "polygon_8": 0.964,
    "ellipse_fit": 0.968,
    "convex_hull": 0.992,
    "bounding_box": 0.866,
    "jagged_3": 0.967,
    "jagged_5": 0.935,
    "elastic_low": 0.957,
    "elastic_high": 0.932,
    "grid_low": 0.904,
    "grid_high": 0.836,
    "grid_very_high": 0.793,
    "holes_small": 0.978,
    "holes_large": 0.872,
    "holes_many": 0.67,
    "holes_islands": 0.87,
    "shift_10": 0.738,
    "shift_20": 0.497,
    "shift_30": 0.327,
    "shift_40": 0.219,
    "scale_down": 0.788,
    "scale_up": 0.861,
    "rotate_15": 0.971,
    "rotate_30": 0.953,
    "scale_very_small": 0.508,
    "scale_very_large": 0.638,
    "affine": 0.731,
    "invert": 0.0,
    "empty": 0.0,
    "full": 0.24,
    "random": 0.21,
}
LOOSE = ("shift", "scale", "affine")


def ellipse(rng, size=224, area=0.14):
    """One ellipse, axis ratio 1 to 1.7, any orientation, near the middle."""
    ratio, angle = rng.uniform(1.0, 1.7), rng.uniform(0.0, np.pi)
    minor = np.sqrt(area * size**2 / (np.pi * ratio))
    distance, direction = size / 7 * np.sqrt(rng.random()), rng.uniform(0.0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    rows = rows - distance * np.sin(direction)
    columns = columns - distance * np.cos(direction)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    return ((along / (ratio * minor)) ** 2 + (across / minor) ** 2 <= 1).astype(np.uint8)


@pytest.fixture(scope="module")
def ellipses():
    rng = np.random.default_rng(12)
    return [ellipse(rng) for _ in range(140)]


def mean_dice(name, masks, calls, seed=5):
    rng = np.random.default_rng(seed)
    scores = [
        dice(OPERATIONS[name](masks[i % len(masks)], rng), masks[i % len(masks)])
        for i in range(calls)
    ]
    return float(np.mean(scores))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_mean_dice_is_near_the_published_one_in_a_few_calls(name, ellipses):
    tolerance = 0.18 if name.startswith(LOOSE) else 0.09
    assert mean_dice(name, ellipses, 30) == pytest.approx(PUBLISHED[name], abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_mean_dice_is_the_published_one(name, ellipses):
    tolerance = 0.12 if name.startswith(LOOSE) else 0.06
    assert mean_dice(name, ellipses, 500) == pytest.approx(PUBLISHED[name], abs=tolerance)


@pytest.mark.parametrize("name", ["opening_5", "closing_5", "smooth_11", "smooth_15"])
def test_smoothing_hardly_changes_a_smooth_object(name, ellipses):
    assert mean_dice(name, ellipses, 10) > 0.99


def distribution(masks, draws, seed=3):
    rng = np.random.default_rng(seed)
    return np.array(
        [
            corrupt(masks[i % 140], rng, bank=masks[: i % 140] + masks[i % 140 + 1 :]).dice
            for i in range(draws)
        ]
    )


@pytest.mark.parametrize("draws", [1400, pytest.param(7000, marks=pytest.mark.slow)])
def test_the_distribution_of_quality_is_the_published_one(draws, ellipses):
    scores = distribution(ellipses, draws)
    assert scores.mean() == pytest.approx(0.783, abs=0.06)
    assert 0.40 <= (scores > 0.9).mean() <= 0.62
    assert (scores == 1).mean() == pytest.approx(0.21, abs=0.05)
    assert (scores < 0.5).mean() == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize("name", ["erosion_7", "dilation_7", "holes_large", "elastic_high"])
def test_sizes_grow_with_the_image(name):
    small = mean_dice(name, [ellipse(np.random.default_rng(i), 112) for i in range(8)], 40)
    large = mean_dice(name, [ellipse(np.random.default_rng(i), 448) for i in range(8)], 40)
    assert small == pytest.approx(large, abs=0.04)
