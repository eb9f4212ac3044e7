from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.averaging import (
    all_finite,
    blend,
    distance,
    weighted_average,
    weights_sha256,
)


def state(value, count=0, dtype=torch.float32):
    return {
        "w": torch.full((2, 3), value, dtype=dtype),
        "b": torch.tensor(value * 2, dtype=dtype),
        "count": torch.tensor(count),
        "flag": torch.tensor([count > 0]),
    }


def random_state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(7, generator=generator), "n": torch.tensor(seed)}


def test_average_by_hand():
    mean = weighted_average([state(1.0, 5), state(4.0, 9)], [1, 2])
    assert mean["w"].tolist() == [[3.0] * 3] * 2
    assert mean["b"].item() == 6.0
    assert mean["w"].dtype == torch.float32


def test_integers_and_bools_come_from_the_first_state_and_are_never_averaged():
    mean = weighted_average([state(1.0, 5), state(4.0, 9)], [1, 2])
    assert mean["count"].item() == 5
    assert mean["count"].dtype == torch.int64
    assert mean["flag"].tolist() == [True]


def test_sums_run_in_float64_and_are_cast_once():
    big, small = {"w": torch.tensor([2.0**24])}, {"w": torch.tensor([1.0])}
    # In float32 each addition of 0.25 to 2**22 would round back to 2**22.
    mean = weighted_average([big, small, small, small], [1, 1, 1, 1])
    assert mean["w"].item() == torch.tensor(2**22 + 0.75).item() == 2**22 + 1


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e6)), min_size=1, max_size=5))
def test_an_average_lies_between_its_members(members):
    weights = [w for _, w in members]
    if not sum(weights) > 0:
        weights = [1.0] * len(members)
    states = [random_state(s) for s, _ in members]
    mean = weighted_average(states, weights)["w"]
    stacked = torch.stack([s["w"] for s in states])
    assert (mean >= stacked.amin(0) - 1e-6).all()
    assert (mean <= stacked.amax(0) + 1e-6).all()


@given(st.integers(0, 99), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7))
def test_the_average_of_equal_states_is_that_state_bit_for_bit(seed, weights):
    mean = weighted_average([random_state(seed) for _ in weights], weights)
    assert torch.equal(mean["w"], random_state(seed)["w"])


def test_one_state_with_weight_is_returned_bit_for_bit_and_others_are_never_read():
    poison = {"w": torch.tensor([math.nan, math.inf]), "n": torch.tensor(-1)}
    good = {"w": torch.tensor([-0.0, 1e-45]), "n": torch.tensor(3)}
    for states, weights in (([good], [0.1]), ([poison, good, poison], [0, 0.3, 0])):
        mean = weighted_average(states, weights)
        assert weights_sha256(mean) == weights_sha256(good)
        assert mean["w"] is not good["w"]


def test_a_poisoned_state_with_weight_zero_does_not_leak_into_an_average_of_two():
    poison = {"w": torch.tensor([math.nan]), "n": torch.tensor(-1)}
    a, b = ({"w": torch.tensor([v]), "n": torch.tensor(1)} for v in (1.0, 2.0))
    mean = weighted_average([poison, a, b], [0.0, 1.0, 1.0])
    assert mean["w"].item() == 1.5
    assert mean["n"].item() == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.0, 0.0], "positive"),
        ([2.0, -1.0], ">= 0"),
        ([math.nan, 1.0], "finite"),
        ([1.0], "one weight per state"),
    ],
)
def test_impossible_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        weighted_average([state(1.0), state(2.0)], weights)


def test_no_states_at_all_are_refused():
    with pytest.raises(ValueError, match="positive"):
        weighted_average([], [])


def test_states_that_do_not_match_are_refused_by_name():
    extra = state(1.0) | {"extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="extra"):
        weighted_average([state(1.0), extra], [1, 1])
    reshaped = state(1.0) | {"w": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=r"'w'.*\(3, 2\).*\(2, 3\)"):
        weighted_average([state(1.0), reshaped], [1, 1])
    with pytest.raises(ValueError, match="float64"):
        weighted_average([state(1.0), state(1.0, dtype=torch.float64)], [1, 1])


def test_half_precision_states_keep_their_dtype():
    mean = weighted_average(
        [state(1.0, dtype=torch.float16), state(2.0, dtype=torch.float16)], [1, 1]
    )
    assert mean["w"].dtype == torch.float16
    assert mean["w"][0, 0].item() == 1.5


def test_blend_by_hand():
    mixed = blend(state(1.0, 5), state(2.0, 9), 0.75)
    assert mixed["w"][0, 0].item() == 1.25
    assert mixed["count"].item() == 5


def test_blend_leaves_the_labeled_average_alone_when_it_alone_counts():
    xi, poison = random_state(1), {"w": torch.full((7,), math.nan), "n": torch.tensor(0)}
    assert weights_sha256(blend(xi, poison, 1.0)) == weights_sha256(xi)
    assert weights_sha256(blend(xi, None, 0.3)) == weights_sha256(xi)


def test_blend_weighted_by_counts_equals_the_average_over_everybody():
    states, counts = [random_state(s) for s in range(4)], [3, 5, 7, 2]
    xi = weighted_average(states[:2], counts[:2])
    psi = weighted_average(states[2:], counts[2:])
    everybody = weighted_average(states, counts)
    torch.testing.assert_close(blend(xi, psi, 8 / 17)["w"], everybody["w"])


@pytest.mark.parametrize("mu", [-0.1, 1.1, math.nan])
def test_blend_refuses_a_share_outside_zero_to_one(mu):
    with pytest.raises(ValueError, match="mu"):
        blend(state(1.0), state(2.0), mu)


def test_finite_means_no_nan_and_no_infinity_in_float_tensors():
    assert all_finite(state(1.0))
    assert not all_finite(state(math.nan))
    assert not all_finite(state(math.inf))


def test_distance_is_euclidean_over_float_tensors_only():
    a = {"x": torch.tensor([0.0, 0.0]), "y": torch.tensor(0.0), "n": torch.tensor(0)}
    b = {"x": torch.tensor([2.0, 3.0]), "y": torch.tensor(6.0), "n": torch.tensor(100)}
    assert distance(a, b) == 7.0
    assert distance(a, a) == 0.0


def test_digest_covers_name_dtype_shape_and_bytes_in_name_order():
    entries = {"b": torch.tensor([1, 2]), "a": torch.tensor([[1.0], [2.0]])}
    text = b"afloat32(2, 1)" + b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    text += b"bint64(2,)" + b"\x01" + b"\x00" * 7 + b"\x02" + b"\x00" * 7
    assert weights_sha256(entries) == hashlib.sha256(text).hexdigest()


def test_digest_depends_on_content_not_on_memory_layout_or_order():
    base = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0, dtype=torch.bfloat16)}
    strided = {"b": base["b"], "w": base["w"].T.contiguous().T}
    assert weights_sha256(strided) == weights_sha256(base)
    for other in (
        {"v": base["w"], "b": base["b"]},
        base | {"w": base["w"].double()},
        base | {"w": base["w"].reshape(3, 2)},
        base | {"w": base["w"] + 1e-3},
    ):
        assert weights_sha256(other) != weights_sha256(base)
