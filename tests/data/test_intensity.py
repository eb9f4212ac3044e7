from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedssl.data.intensity import local, resize_image, resize_label, robust, zscore


def test_without_background_all_pixels_count():
    image = np.repeat(np.float32([0, 1, 2, 3]), [4, 32, 32, 32]).reshape(1, 10, 10)  # 4 % dark
    mean = (32 * 6) / 100
    deviation = (32 * 14 / 100 - mean**2) ** 0.5
    expected = (image - mean) / deviation
    np.testing.assert_allclose(zscore(image), expected, rtol=1e-5)


def test_with_background_only_the_other_pixels_count():
    image = np.zeros((1, 4, 4), dtype=np.float32)
    image[0, 0] = (10, 10, 20, 20)  # 12 of 16 pixels are background
    # of the four inside: mean 15, standard deviation 5; background clips to 10
    expected = np.full((1, 4, 4), -1.0)
    expected[0, 0, 2:] = 1.0
    np.testing.assert_allclose(zscore(image), expected, rtol=1e-6)


def test_noise_of_the_air_around_a_head_is_background_as_zeros_are():
    rng = np.random.default_rng(0)
    head = rng.normal(100, 10, (1, 32, 32))
    zeros, noise = np.zeros((1, 64, 64)), rng.uniform(0, 8, (1, 64, 64))
    for image in (zeros, noise):
        image[:, 16:48, 16:48] = head
    of_zeros, of_noise = (zscore(i.astype(np.float32))[:, 16:48, 16:48] for i in (zeros, noise))
    np.testing.assert_array_equal(of_noise, of_zeros)
    assert float(of_noise.mean()) == pytest.approx(0.0, abs=0.01)


def test_the_field_of_view_of_a_colour_picture_is_one_for_all_channels():
    image = np.zeros((3, 20, 20), dtype=np.float32)
    image[:, 5:15] = np.random.default_rng(0).normal(100, 10, (3, 10, 20))
    image[2, 5:15, ::2] = 0  # blue is black at half of the tissue, which stays tissue
    assert float(zscore(image)[2, 5:15].std()) == pytest.approx(1.0, abs=1e-3)


def test_bright_fat_does_not_set_the_robust_scale():
    rng = np.random.default_rng(0)
    slim = rng.normal(100, 10, (1, 40, 40)).astype(np.float32)
    slim[:, :10] = 0.0
    fat = slim.copy()
    fat[:, 10:, :4] = 300.0  # a tenth of the body
    tissue = np.s_[:, 10:, 4:]
    assert float(robust(slim)[tissue].std()) == pytest.approx(1.0, abs=0.05)
    assert float(robust(fat)[tissue].std()) == pytest.approx(0.85, abs=0.05)
    assert float(zscore(fat)[tissue].std()) < 0.25
    assert robust(fat).max() == 5.0


def test_uneven_light_goes_and_thin_lines_stay():
    rng = np.random.default_rng(0)
    tissue = rng.normal(0, 1, (1, 96, 96))
    tissue[0, :, 48] -= 8.0  # a vessel
    light = np.linspace(20.0, 60.0, 96)[:, None]
    even, uneven = (local((100 + tissue * g).astype(np.float32)) for g in (20.0, light))
    lit = local((100 + tissue * 20 + 3 * light).astype(np.float32))
    inner = np.s_[:, 12:-12, 12:-12]
    assert float(np.abs(lit - even)[inner].mean()) < 0.05
    assert float(np.abs(uneven - even)[inner].mean()) < 0.05
    assert float(even[0, :, 48].mean()) < -3.0
    assert float(np.abs(even[inner].mean())) < 0.05


def test_what_lies_outside_the_field_of_view_is_zero_and_does_not_count():
    image = np.random.default_rng(0).normal(100, 10, (2, 64, 64)).astype(np.float32)
    wide = np.pad(image, ((0, 0), (32, 32), (32, 32)))  # the neighbourhood doubles with the sides
    result = local(wide)
    assert np.count_nonzero(result[:, :32]) == 0
    edge, centre = (result[:, 32 + a : 36 + a, 40:88] for a in (0, 30))
    assert float(edge.std()) == pytest.approx(float(centre.std()), rel=0.15)
    assert abs(float(edge.mean())) < 0.15


@pytest.mark.parametrize("normalise", [zscore, robust, local])
def test_each_channel_may_have_a_gain_and_offset_of_its_own(normalise):
    image = np.random.default_rng(0).gamma(2.0, 30.0, (2, 24, 24)).astype(np.float32)
    moved = image * np.float32([3.0, 0.5])[:, None, None] + np.float32(40.0)
    np.testing.assert_allclose(normalise(moved), normalise(image), atol=2e-3)


def test_where_the_quartiles_are_equal_the_deviation_is_the_scale():
    flat = np.full((1, 8, 8), 7.0, np.float32)
    flat[0, 0] = 9.0
    np.testing.assert_array_equal(robust(flat), zscore(flat))
    assert robust(np.full((1, 8, 8), 7.0, np.float32)).max() == 0


def test_a_few_minimal_pixels_are_no_background():
    image = np.tile(np.array([0.0, 2.0], dtype=np.float32), 500).reshape(1, 10, 100)
    image[0, 0, :40] = -1.0  # 4 % of the pixels
    result = zscore(image)
    assert abs(float(result.mean())) < 1e-5
    assert float(result.std()) == pytest.approx(1.0, abs=1e-5)


def test_a_binary_image_falls_back_to_all_pixels():
    image = np.zeros((1, 2, 4), dtype=np.float32)
    image[0, 1] = 3.0
    np.testing.assert_allclose(zscore(image), [[[-1.0] * 4, [1.0] * 4]])


def test_a_constant_channel_becomes_zeros_and_channels_are_independent():
    ramp = np.tile(np.float32([1, 2]), 32).reshape(8, 8)
    ramp[0, 0] = 0
    result = zscore(np.stack([np.full((8, 8), 7.0, np.float32), ramp]))
    np.testing.assert_array_equal(result[0], 0)
    assert result[1].std() == pytest.approx(1.0, abs=1e-5)


def test_hot_pixels_do_not_set_the_scale():
    image = np.random.default_rng(0).normal(100, 10, (1, 100, 100)).astype(np.float32)
    image[0, 0, 0] = 1e9
    result = zscore(image)
    assert float(result.std()) == pytest.approx(1.0, abs=1e-3)
    assert float(result.max()) < 4


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=4, max_side=5),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_the_result_is_finite_whatever_the_scale(image):
    for normalise in (zscore, local):
        result = normalise(image)
        assert result.dtype == np.float32
        assert result.shape == image.shape
        assert np.isfinite(result).all()


@given(st.floats(0.01, 1e3), st.floats(-1e4, 1e4))
def test_gain_and_offset_of_a_scanner_do_not_matter(gain, offset):
    image = np.random.default_rng(1).gamma(2.0, 1.0, (1, 20, 20))
    moved = (image * gain + offset).astype(np.float32)
    scale = max(abs(offset) / gain, 1.0) * 1e-5
    np.testing.assert_allclose(zscore(moved), zscore(image.astype(np.float32)), atol=scale)


@pytest.mark.parametrize("size", [(6, 9), (2, 3), (7, 5)])
def test_resizing_keeps_a_constant_and_gives_the_size(size):
    np.testing.assert_allclose(resize_image(np.full((2, 4, 6), 5.0, np.float32), size), 5.0)
    assert resize_image(np.zeros((2, 4, 6), np.float32), size).shape == (2, *size)


def test_slices_of_a_volume_are_resized_in_plane_only():
    volume = np.stack([np.full((1, 4, 4), v, np.float32) for v in (1, 2, 3)], axis=1)
    result = resize_image(volume, (2, 2))
    assert result.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(result[0, :, 0, 0], [1, 2, 3])


def test_a_linear_ramp_stays_one_on_every_axis_of_a_volume():
    for axis in (1, 2, 3):
        shape = [1, 1, 1, 1]
        shape[axis] = 16
        ramp = np.broadcast_to(np.arange(16, dtype=np.float32).reshape(shape), (1, 16, 16, 16))
        result = np.moveaxis(resize_image(ramp, (8, 8, 8)), axis, -1)[0, 4, 4]
        # pixel i of the small image covers pixels 2i and 2i + 1: its centre is 2i + 0.5
        np.testing.assert_allclose(result[1:-1], 2 * np.arange(1, 7) + 0.5, rtol=1e-5)


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.tile(np.array([0.0, 1.0], dtype=np.float32), 32)[None, None].repeat(8, axis=1)
    assert np.abs(resize_image(stripes, (8, 16))[..., 2:-2] - 0.5).max() < 0.01


def test_masks_keep_their_values_and_take_the_nearest_pixel():
    mask = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], dtype=np.uint8)
    np.testing.assert_array_equal(resize_label(mask, (4, 4))[:, 0], [0, 0, 4, 4])
    # pixel 0 of two covers 0..1 (centre at the border of both, which goes to the upper)
    np.testing.assert_array_equal(resize_label(mask, (2, 2)), [[1, 3], [5, 7]])
    np.testing.assert_array_equal(resize_label(mask, (2, 4)), mask)
    assert resize_label(np.zeros((3, 4, 4), np.uint8), (2, 2)).shape == (3, 2, 2)


def test_image_and_mask_stay_aligned_when_resized():
    image = np.zeros((1, 60, 60), dtype=np.float32)
    image[0, 20:40, 10:50] = 1.0
    for size in ((30, 30), (90, 120), (47, 33)):
        label = resize_label(image[0].astype(np.uint8), size)
        drawn = resize_image(image, size)[0] >= 0.5
        overlap = 2 * (label.astype(bool) & drawn).sum() / (label.sum() + drawn.sum())
        assert overlap > 0.93
        for axis in (0, 1):  # no shift to one side
            centres = [np.argwhere(m)[:, axis].mean() for m in (label, drawn)]
            assert abs(centres[0] - centres[1]) < 0.51
