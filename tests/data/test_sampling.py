from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssl.config import ModelConfig, RunConfig
from fedssl.data.sampling import SamplePool, center_near, crop_or_pad, cut_start, take_slice
from fedssl.data.sizes import check_patch, padded_size
from fedssl.errors import ConfigError


def pool(count: int, seed: int = 0) -> SamplePool:
    rows = np.stack([np.arange(count), np.zeros(count, dtype=np.int64)], axis=1)
    return SamplePool(rows, np.random.default_rng(seed))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5))
def test_every_sample_is_drawn_once_before_any_is_drawn_again(total, batch, seed):
    if batch > total:
        return
    samples = pool(total, seed)
    drawn = [int(case) for _ in range(3 * total) for case, _ in samples.draw(batch)]
    for epoch in range(len(drawn) // total):
        assert sorted(drawn[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_epochs_are_shuffled_anew_and_repeat_for_a_seed():
    first, second = pool(30), pool(30)
    epochs = [first.draw(30)[:, 0].tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs == [second.draw(30)[:, 0].tolist() for _ in range(2)]
    assert epochs[0] != pool(30, seed=1).draw(30)[:, 0].tolist()


def test_fewer_samples_than_a_batch_are_drawn_with_replacement():
    drawn = Counter(int(c) for _ in range(300) for c, _ in pool(3, seed=_).draw(10))
    assert set(drawn) == {0, 1, 2}
    assert all(900 < n < 1100 for n in drawn.values())


VOLUME = np.arange(2 * 4 * 3 * 3).reshape(2, 4, 3, 3)


def test_a_slice_is_one_plane_of_all_channels():
    np.testing.assert_array_equal(take_slice(VOLUME, 2, "slices"), VOLUME[:, 2])


@pytest.mark.parametrize(("position", "stack"), [(0, (0, 0, 1)), (2, (1, 2, 3)), (3, (2, 3, 3))])
def test_neighbours_are_stacked_in_order_and_clamped_at_the_ends(position, stack):
    expected = np.concatenate([VOLUME[:, z] for z in stack])
    np.testing.assert_array_equal(take_slice(VOLUME, position, "2.5d"), expected)


def test_a_crop_that_does_not_fit_is_padded_at_its_end():
    array = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(
        crop_or_pad(array, (0, 0), (3, 4), edge=True), [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4]]
    )
    np.testing.assert_array_equal(
        crop_or_pad(array, (0, 0), (3, 4), edge=False), [[1, 2, 0, 0], [3, 4, 0, 0], [0] * 4]
    )
    np.testing.assert_array_equal(crop_or_pad(array, (1, 0), (1, 2), edge=True), [[3, 4]])


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.integers(0, 99),
)
def test_a_random_crop_lies_inside_and_reaches_every_place(shape, size, seed):
    rng = np.random.default_rng(seed)
    start = cut_start(shape, size[: len(shape)], rng)
    assert all(0 <= b <= max(n - s, 0) for b, n, s in zip(start, shape, size, strict=False))


def test_random_crops_begin_everywhere():
    rng = np.random.default_rng(0)
    begun = Counter(cut_start((6,), (4,), rng)[0] for _ in range(900))
    assert set(begun) == {0, 1, 2}
    assert all(240 < n < 360 for n in begun.values())


@given(
    st.lists(st.integers(1, 10), min_size=2, max_size=3),
    st.lists(st.integers(1, 10), min_size=3, max_size=3),
    st.integers(0, 999),
)
def test_a_crop_near_foreground_always_shows_foreground(shape, sizes, seed):
    rng = np.random.default_rng(seed)
    size = sizes[: len(shape)]
    label = np.zeros(shape, dtype=np.uint8)
    label[tuple(int(rng.integers(n)) for n in shape)] = 2
    counts = np.count_nonzero(label, axis=tuple(range(1, label.ndim)))
    center = center_near(label, counts, size, rng)
    start = cut_start(shape, size, rng, center)
    assert crop_or_pad(label, start, size, edge=False).any()


def test_every_foreground_voxel_is_equally_likely():
    label = np.zeros((3, 4), dtype=np.uint8)
    label[0, 1] = label[2, 0] = label[2, 2] = label[2, 3] = 1
    rng = np.random.default_rng(0)
    counts = np.count_nonzero(label, axis=1)
    # a crop of one pixel is not moved
    seen = Counter(center_near(label, counts, (1, 1), rng) for _ in range(2000))
    assert set(seen) == {(0, 1), (2, 0), (2, 2), (2, 3)}
    assert all(420 < n < 580 for n in seen.values())


def test_sizes_are_padded_to_what_the_network_can_halve():
    assert padded_size((1, 16, 17), 4) == (16, 16, 32)
    assert padded_size((5, 8), 1) == (6, 8)


def test_a_patch_that_cannot_be_halved_is_refused():
    run = RunConfig(patch_size="50", model=ModelConfig(depth=4))
    with pytest.raises(
        ConfigError, match=r"'patch-size' = '50': 50 .* 16 = 2 .*Use e\.g\. 48 or 64"
    ):
        check_patch((50, 50), run)
    check_patch((48, 64), run)
    check_patch(None, run)
