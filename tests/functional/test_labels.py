from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.labels import (
    decode,
    foreground_probabilities,
    foreground_targets,
    label_from_foreground,
    repair_nesting,
)
from fedssl.types import Output

EXCLUSIVE, NESTED = Output.EXCLUSIVE, Output.NESTED


def test_exclusive_probabilities_are_the_softmax_without_background():
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0])).reshape(1, 3, 1, 1)
    prob = foreground_probabilities(logits, EXCLUSIVE)
    torch.testing.assert_close(prob.flatten(), torch.tensor([0.25, 0.625]))


def test_nested_probabilities_are_independent_sigmoids():
    logits = torch.log(torch.tensor([3.0, 1 / 3])).reshape(1, 2, 1)
    prob = foreground_probabilities(logits, NESTED)
    torch.testing.assert_close(prob.flatten(), torch.tensor([0.75, 0.25]))


def test_temperature_divides_the_logits():
    logits = torch.log(torch.tensor([9.0, 1 / 9])).reshape(1, 2, 1)
    prob = foreground_probabilities(logits, NESTED, temperature=2.0)
    torch.testing.assert_close(prob.flatten(), torch.tensor([0.75, 0.25]))
    two = torch.tensor([0.0, 4.0]).reshape(1, 2, 1)
    cold = foreground_probabilities(two, EXCLUSIVE, temperature=2.0)
    torch.testing.assert_close(cold.flatten(), torch.sigmoid(torch.tensor([2.0])))


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_exclusive_decoding_is_the_argmax_over_all_classes(seed, classes):
    logits = torch.randn(2, classes, 4, 5, generator=torch.Generator().manual_seed(seed)) * 3
    decoded = decode(foreground_probabilities(logits, EXCLUSIVE), EXCLUSIVE)
    assert decoded.dtype == torch.int64
    assert torch.equal(decoded, logits.argmax(dim=1))


@pytest.mark.parametrize(
    ("prob", "expected"),
    [
        ((0.2, 0.1, 0.1), 0),
        ((0.9, 0.1, 0.1), 1),
        ((0.9, 0.8, 0.1), 2),
        ((0.9, 0.8, 0.7), 3),
        ((0.1, 0.9, 0.9), 0),
        ((0.9, 0.1, 0.9), 1),
        ((0.5, 0.9, 0.9), 0),
    ],
)
def test_nested_decoding_stops_at_the_first_class_below_threshold(prob, expected):
    assert decode(torch.tensor(prob).reshape(1, 3, 1, 1), NESTED).item() == expected


def test_nested_decoding_uses_the_threshold_given():
    prob = torch.tensor([0.7, 0.7]).reshape(1, 2, 1)
    assert decode(prob, NESTED, threshold=0.75).item() == 0
    assert decode(prob, NESTED, threshold=0.6).item() == 2


def test_targets_of_a_label_map_written_out_by_hand():
    label = torch.tensor([[0, 1, 2]])
    exclusive = foreground_targets(label, 2, EXCLUSIVE)
    nested = foreground_targets(label, 2, NESTED)
    assert exclusive.dtype == nested.dtype == torch.float32
    assert exclusive.tolist() == [[[0, 1, 0], [0, 0, 1]]]
    assert nested.tolist() == [[[0, 1, 1], [0, 0, 1]]]


@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([EXCLUSIVE, NESTED]))
def test_labels_survive_the_way_to_targets_and_back(seed, foreground, output):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, foreground + 1, (2, 3, 4, 2), generator=generator)
    targets = foreground_targets(label, foreground, output)
    assert torch.equal(label_from_foreground(targets, output), label)
    assert torch.equal(label_from_foreground(targets.to(torch.uint8), output), label)
    assert torch.equal(label_from_foreground(targets.bool(), output), label)
    assert torch.equal(decode(targets, output), label)


def test_conflicting_exclusive_channels_read_as_the_first():
    mask = torch.tensor([0, 1, 1]).reshape(1, 3, 1)
    assert label_from_foreground(mask, EXCLUSIVE).item() == 2


def test_nesting_is_repaired_from_the_outside_inwards():
    mask = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.uint8).reshape(1, 3, 3)
    repaired, changed = repair_nesting(mask)
    assert repaired.dtype == torch.uint8
    assert repaired.tolist() == [[[1, 0, 1], [1, 0, 0], [1, 0, 0]]]
    assert changed.tolist() == [[[False] * 3, [False, True, False], [False, True, True]]]


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_repaired_masks_are_nested_and_repairing_twice_changes_nothing(seed, foreground):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 2, (1, foreground, 5, 5), generator=generator)
    repaired, changed = repair_nesting(mask)
    assert torch.equal(changed, repaired != mask)
    assert (repaired[:, 1:] <= repaired[:, :-1]).all()
    again = repair_nesting(repaired)
    assert not again.changed.any()
    assert torch.equal(label_from_foreground(mask, NESTED), label_from_foreground(repaired, NESTED))
