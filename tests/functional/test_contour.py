from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedssl.functional.corruption.contour import fill_polygon, hull_corners, simplify, trace
from fedssl.functional.corruption.masks import largest_component


def random_component(seed, size=24):
    """A ragged component: thresholded noise with some smoothing."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), rng.uniform(0.4, 2.5))
    mask = (noise > 0).astype(np.uint8)
    mask[size // 2, size // 2] = 1
    return largest_component(mask)


def filled(mask):
    """Holes closed, where background connects across edges only."""
    return ndimage.binary_fill_holes(mask).astype(np.uint8)


def test_the_contour_of_a_pixel_is_its_four_corners_clockwise():
    mask = np.zeros((5, 5), np.uint8)
    mask[2, 3] = 1
    assert trace(mask).tolist() == [[2, 3], [2, 4], [3, 4], [3, 3]]


def test_two_pixels_that_touch_at_a_corner_have_one_contour():
    contour = trace(np.eye(2, dtype=np.uint8))
    assert contour.tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 1], [1, 1], [1, 0]]
    assert np.array_equal(fill_polygon(contour, (2, 2)), np.eye(2))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_filling_a_contour_gives_the_component_without_holes(seed):
    mask = random_component(seed)
    assert np.array_equal(fill_polygon(trace(mask), mask.shape), filled(mask))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_hull_is_convex_and_contains_the_mask(seed):
    mask = random_component(seed)
    corners = hull_corners(mask)
    hull = fill_polygon(corners, mask.shape)
    assert (hull >= mask).all()
    edges = np.roll(corners, -1, axis=0) - corners
    after = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * after[:, 1] - edges[:, 1] * after[:, 0]
    assert (turns > 0).all() or (turns < 0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**9), sides=st.integers(3, 12))
def test_a_simplified_contour_has_that_many_of_its_corners(seed, sides):
    contour = trace(random_component(seed, 32))
    polygon = simplify(contour, sides, np.random.default_rng(seed))
    assert len(polygon) == min(sides, len(contour))
    known = {tuple(corner) for corner in contour}
    assert all(tuple(corner) in known for corner in polygon)


def disc(radius=60.0):
    rows, columns = np.mgrid[:160, :160] - 79.5
    return (rows**2 + columns**2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("sides", [3, 5, 8])
def test_polygons_in_a_disc_are_nearly_regular(sides):
    contour = trace(disc())
    regular = sides / (2 * np.pi) * np.sin(2 * np.pi / sides)
    shares = [
        fill_polygon(simplify(contour, sides, np.random.default_rng(i)), (160, 160)).sum()
        / disc().sum()
        for i in range(20)
    ]
    assert np.mean(shares) == pytest.approx(regular, rel=0.06)
    assert max(shares) < 1.03 * regular


def test_more_sides_follow_the_contour_more_closely():
    mask = random_component(4, 64)
    contour, errors = trace(mask), []
    for sides in (3, 6, 12, 24, 48):
        polygon = fill_polygon(simplify(contour, sides, np.random.default_rng(0)), mask.shape)
        errors.append(int(np.sum(polygon != filled(mask))))
    assert errors[-1] < errors[2] < errors[0]
