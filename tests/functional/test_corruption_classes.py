from __future__ import annotations

import numpy as np
import pytest

from fedssl.functional.corruption import corrupt, corrupt_classes, dice


def three_squares():
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[0, 2:12, 2:12] = masks[1, 15:30, 3:18] = masks[2, 20:36, 22:38] = 1
    return masks


def draws(count=600, **options):
    rng = np.random.default_rng(0)
    return [corrupt_classes(three_squares(), rng, **options) for _ in range(count)]


def test_scores_are_those_of_each_class_against_its_original():
    for result in draws(60, swap_probability=0.5):
        assert result.masks.shape == (3, 40, 40)
        expected = tuple(dice(a, b) for a, b in zip(result.masks, three_squares(), strict=True))
        assert result.dice == expected


def test_classes_are_corrupted_independently_and_as_often_as_asked():
    corrupted = np.array([[c != "kept" for c in r.categories] for r in draws()])
    assert corrupted.mean(0) == pytest.approx(0.7, abs=0.06)
    assert corrupted.all(1).mean() == pytest.approx(0.7**3, abs=0.06)


def test_kept_classes_are_untouched():
    for result in draws(60, swap_probability=0.0):
        for f, category in enumerate(result.categories):
            if category == "kept":
                assert np.array_equal(result.masks[f], three_squares()[f])
                assert result.dice[f] == 1.0


def test_two_classes_may_change_places():
    results = draws(300, class_probability=0.0)
    swapped = [r for r in results if r.swapped is not None]
    assert len(swapped) / 300 == pytest.approx(0.1, abs=0.05)
    for result in swapped:
        a, b = result.swapped
        assert np.array_equal(result.masks[a], three_squares()[b])
        assert result.dice[a] == result.dice[b] == 0.0
        assert sorted(result.dice) == [0.0, 0.0, 1.0]


def test_one_class_is_the_binary_form():
    mask = three_squares()[1]
    one = corrupt_classes(mask[None], np.random.default_rng(5))
    binary = corrupt(mask, np.random.default_rng(5))
    assert np.array_equal(one.masks[0], binary.mask)
    assert one.dice == (binary.dice,)
    assert one.categories == (binary.category,)


def test_other_images_and_weak_predictions_are_taken_class_by_class():
    other = np.zeros((3, 40, 40), np.uint8)
    for f in range(3):
        other[f, :, 10 * f : 10 * f + 5] = 1
    rng = np.random.default_rng(0)
    options = {"class_probability": 1.0, "swap_probability": 0.0}
    crossed = corrupt_classes(
        three_squares(), rng, bank=other[None], probabilities={"cross_image": 1.0}, **options
    )
    weak = corrupt_classes(
        three_squares(), rng, weak=other[None], probabilities={"identity": 1, "weak": 1}, **options
    )
    assert np.array_equal(crossed.masks, other)
    assert np.array_equal(weak.masks, other)
    assert set(weak.categories) == {"weak"}
