from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedssl.functional.corruption import (
    BLOBS,
    CATASTROPHIC,
    CHAINED,
    CLASS_PROBABILITIES,
    HEAVY,
    OPERATIONS,
    SCRIPT_PROBABILITIES,
    SINGLE,
    corrupt,
    dice,
)


def ellipse(rng, size=224):
    """An upright ellipse near the middle, a quarter to a half of the image wide and high."""
    rows, columns = np.mgrid[:size, :size] - size / 2 + size / 10 * rng.uniform(-1, 1, (2, 1, 1))
    height, width = size * rng.uniform(0.15, 0.25, 2)
    return ((rows / height) ** 2 + (columns / width) ** 2 <= 1).astype(np.uint8)


@pytest.fixture(scope="module")
def ellipses():
    rng = np.random.default_rng(12)
    return [ellipse(rng) for _ in range(12)]


def test_the_registry_has_forty_single_operations_and_the_others():
    assert len(SINGLE) == 40
    assert len(HEAVY) == 7
    assert len(CATASTROPHIC) == 4
    assert len(BLOBS) == 5
    assert set(SINGLE) | set(HEAVY) | set(CATASTROPHIC) == set(OPERATIONS)
    assert set(SINGLE) - set(CHAINED) == {"gaussian_blob", "gaussian_blob_large", "circular_blob"}
    assert sum(SINGLE.values()) == pytest.approx(33.5)


@pytest.mark.parametrize("probabilities", [SCRIPT_PROBABILITIES, CLASS_PROBABILITIES])
def test_probabilities_of_the_categories_sum_to_one(probabilities):
    assert sum(probabilities.values()) == pytest.approx(1.0)


ODD_MASKS = {
    "empty": np.zeros((40, 50), np.uint8),
    "full": np.ones((40, 50), np.uint8),
    "one pixel": np.pad(np.ones((1, 1), np.uint8), 9),
    "corner pixel": np.pad(np.ones((1, 1), np.uint8), ((0, 30), (20, 0))),
    "line": np.pad(np.ones((1, 12), np.uint8), 8),
    "diagonal": np.eye(31, dtype=np.uint8),
    "two parts": np.kron(np.eye(2, dtype=np.uint8), np.ones((15, 9), np.uint8)),
    "ring": np.pad(np.pad(np.zeros((9, 9), np.uint8), 4, constant_values=1), 5),
    "tiny": np.ones((2, 3), np.uint8),
}


@pytest.mark.parametrize("mask", ODD_MASKS.values(), ids=ODD_MASKS)
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_returns_a_new_binary_mask_of_any_input(name, mask):
    before = mask.copy()
    out = OPERATIONS[name](mask, np.random.default_rng(0))
    assert out.shape == mask.shape
    assert out.dtype == np.uint8
    assert set(np.unique(out)) <= {0, 1}
    assert np.array_equal(mask, before)
    assert not np.shares_memory(out, mask)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_all_randomness_comes_from_the_generator(name, ellipses):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 -- the global generator is what is meant
    first, second = (OPERATIONS[name](ellipses[0], np.random.default_rng(8)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002 -- the global generator is what is meant


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - set(CATASTROPHIC)))
def test_an_empty_mask_gains_nothing_but_islands_and_noise(name):
    out = OPERATIONS[name](np.zeros((64, 64), np.uint8), np.random.default_rng(0))
    assert out.any() == (name in {"islands_small", "holes_islands"})


def test_erosion_and_dilation_of_a_square_by_hand():
    mask = np.zeros((224, 224), np.uint8)
    mask[50:90, 60:100] = 1
    eroded, dilated = (OPERATIONS[n](mask, None) for n in ("erosion_5", "dilation_9"))
    assert eroded.sum() == 36**2
    assert dilated.sum() == 48**2
    assert eroded[52, 62] == dilated[46, 56] == 1


def test_the_image_border_does_not_erode():
    assert OPERATIONS["erosion_9"](np.ones((224, 224), np.uint8), None).all()


def test_hull_and_box_of_an_l_shape_by_hand():
    mask = np.zeros((30, 30), np.uint8)
    mask[5:25, 5:9] = mask[21:25, 5:25] = 1
    hull, box = (OPERATIONS[n](mask, None) for n in ("convex_hull", "bounding_box"))
    assert box.sum() == 20 * 20
    assert (hull >= mask).all()
    assert hull[12, 10] == 1
    assert hull[8, 22] == 0
    # The hull cuts half of a square of side 16 off the box, up to the pixels on the cut.
    assert int(hull.sum()) == pytest.approx(400 - 16**2 / 2, abs=8.5)


def test_largest_and_dropped_components_by_hand():
    mask = np.zeros((40, 40), np.uint8)
    mask[:10, :10] = mask[20:25, 20:25] = 1
    largest = OPERATIONS["largest_component"](mask, None)
    assert largest.sum() == 100
    sums = {
        int(OPERATIONS["drop_component"](mask, np.random.default_rng(i)).sum()) for i in range(20)
    }
    assert sums == {25, 100}


def test_blobs_have_the_area_that_was_asked_for(ellipses):
    area = int(ellipses[0].sum())
    for name, factor in (("gaussian_blob", 1.0), ("gaussian_blob_large", 1.2)):
        blob = OPERATIONS[name](ellipses[0], None)
        assert int(blob.sum()) == pytest.approx(factor * area, rel=0.01)
    disc = OPERATIONS["circular_blob"](ellipses[0], None)
    assert int(disc.sum()) == pytest.approx(area, rel=0.01)


def test_shifts_move_by_whole_pixels_without_loss():
    mask = np.zeros((224, 224), np.uint8)
    mask[100:120, 90:130] = 1
    rows = set()
    for seed in range(30):
        out = OPERATIONS["shift_10"](mask, np.random.default_rng(seed))
        assert out.sum() == mask.sum()
        rows.add(int(np.argmax(out.any(1))) - 100)
    assert min(rows) < -10
    assert max(rows) > 10
    assert max(map(abs, rows)) <= 22


def test_scaling_and_rotation_keep_the_centre(ellipses):
    for name in ("scale_down", "scale_very_large", "rotate_30", "ellipse_fit"):
        out = OPERATIONS[name](ellipses[3], np.random.default_rng(1))
        before, after = (ndimage.center_of_mass(m) for m in (ellipses[3], out))
        assert after == pytest.approx(before, abs=0.6)


def test_dice_by_hand():
    a, b = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert dice(a, b) == 1.0
    a[0], b[:, 0] = 1, 1
    assert dice(a, b) == 0.25
    assert dice(a, np.zeros_like(a)) == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_score_is_the_overlap_and_the_names_fit_the_category(seed):
    rng = np.random.default_rng(seed)
    mask, bank = ellipse(rng, 64), [ellipse(rng, 64) for _ in range(6)]
    result = corrupt(mask, rng, bank=bank, weak=bank[:1])
    assert result.dice == dice(result.mask, mask)
    assert 0.0 <= result.dice <= 1.0
    names = result.operation.split("+")
    if result.category == "chained":
        assert 2 <= len(set(names)) == len(names) <= 3
        assert set(names) <= set(CHAINED)
    elif result.category in {"identity", "weak", "cross_image"}:
        assert names == [result.category]
    else:
        table = {"single": SINGLE, "heavy": HEAVY, "catastrophic": CATASTROPHIC, "blob": BLOBS}
        assert len(names) == 1
        assert names[0] in table[result.category]


def test_one_seed_gives_one_mask(ellipses):
    a, b = (corrupt(ellipses[0], np.random.default_rng(77), bank=ellipses[1:]) for _ in range(2))
    assert np.array_equal(a.mask, b.mask)
    assert (a.dice, a.category, a.operation) == (b.dice, b.category, b.operation)


def categories(draws=3000, **options):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:10, 4:12] = 1
    rng = np.random.default_rng(0)
    drawn = Counter(corrupt(mask, rng, **options).category for _ in range(draws))
    return {name: count / draws for name, count in drawn.items()}


def test_categories_come_as_often_as_the_script_says():
    bank = [np.eye(16, dtype=np.uint8)]
    shares = categories(bank=bank)
    for name, probability in SCRIPT_PROBABILITIES.items():
        assert shares[name] == pytest.approx(probability, abs=0.03)


def test_without_other_images_the_category_is_drawn_again():
    shares = categories()
    assert "cross_image" not in shares
    assert shares["identity"] == pytest.approx(0.20 / 0.90, abs=0.03)


def test_weak_predictions_come_before_the_categories():
    weak = [np.eye(16, dtype=np.uint8)]
    shares = categories(weak=weak)
    assert shares["weak"] == pytest.approx(0.05, abs=0.015)
    shares = categories(300, weak=weak, probabilities={"identity": 1.0, "weak": 1.0})
    assert shares == {"weak": 1.0}


def test_weak_predictions_may_be_all_there_is():
    guess = np.eye(16, dtype=np.uint8)
    options = {"weak": [guess], "probabilities": {"weak": 1.0}}
    result = corrupt(np.ones((16, 16), np.uint8), np.random.default_rng(0), **options)
    assert result.category == "weak"
    assert result.dice == pytest.approx(2 * 16 / (16 + 256))
    with pytest.raises(ValueError, match="no category left"):
        corrupt(guess, np.random.default_rng(0), probabilities={"weak": 1.0})


def test_identity_has_quality_one_and_shares_no_memory(ellipses):
    result = corrupt(ellipses[0], np.random.default_rng(0), probabilities={"identity": 1.0})
    assert result.dice == 1.0
    assert np.array_equal(result.mask, ellipses[0])
    assert not np.shares_memory(result.mask, ellipses[0])


def test_two_empty_masks_agree():
    empty = np.zeros((32, 32), np.uint8)
    result = corrupt(empty, np.random.default_rng(0), probabilities={"heavy": 1.0})
    assert result.dice == 1.0


def test_cross_image_takes_one_of_the_fifth_nearest_in_area():
    squares = []
    for side in range(2, 22):
        square = np.zeros((32, 32), np.uint8)
        square[:side, :side] = 1
        squares.append(square)
    mask = squares[10]  # side 12; the four nearest areas belong to sides 10, 11, 12, 13
    rng = np.random.default_rng(0)
    sums = {
        int(corrupt(mask, rng, bank=squares, probabilities={"cross_image": 1}).mask.sum())
        for _ in range(80)
    }
    assert sums == {side**2 for side in (10, 11, 12, 13)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": {"single": 1.0, "double": 1.0}}, "choose weights"),
        ({"probabilities": {"single": -1.0}}, "choose weights"),
        ({"probabilities": {"cross_image": 1.0}}, "no category left"),
        ({"weak": [np.zeros((3, 3))], "probabilities": {"identity": 1, "weak": 1}}, "expected"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        corrupt(np.ones((8, 8), np.uint8), np.random.default_rng(0), **options)


def test_a_volume_is_refused():
    with pytest.raises(ValueError, match="expected"):
        corrupt(np.ones((4, 8, 8), np.uint8), np.random.default_rng(0))
