from __future__ import annotations

import numpy as np
import pytest

from fedssl.functional.corruption import soften

DISC = (np.add.outer(np.square(np.arange(64) - 32.0), np.square(np.arange(64) - 32.0)) < 300)[None]


def test_a_soft_mask_lies_between_zero_and_one_and_is_less_sure_near_the_border():
    mask = DISC.astype(np.uint8)
    soft, (score,) = soften(mask, mask, np.random.default_rng(1), largest_sigma=9.0)
    assert soft.shape == mask.shape
    assert soft.dtype == np.float32
    assert ((soft >= 0) & (soft <= 1)).all()
    assert soft[0, 32, 32] == pytest.approx(1.0, abs=1e-3)
    assert 0.05 < soft[0, 32, 32 + 17] < 0.95
    assert score < 0.999


def test_the_score_is_the_soft_dice_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 1:3, 1:3] = 1
    truth = np.zeros_like(mask)
    truth[0, 1:3, :2] = 1
    # Without blur it is the Dice of two masks of 4 pixels that share 2.
    soft, score = soften(mask, truth, np.random.default_rng(0), largest_sigma=0.0)
    np.testing.assert_array_equal(soft, mask)
    assert score == (0.5,)
    again = soften(255 * mask, 255 * truth, np.random.default_rng(0), largest_sigma=0.0)
    np.testing.assert_array_equal(again[0], mask)
    assert again[1] == score


def test_nothing_against_nothing_is_perfect():
    empty = np.zeros((2, 8, 8), np.uint8)
    assert soften(empty, empty, np.random.default_rng(0))[1] == (1.0, 1.0)
