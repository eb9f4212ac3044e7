from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedssl.functional.balancing import class_thresholds, select_balanced
from fedssl.functional.consistency import (
    confidence,
    hard_label,
    rectified_consistency,
    relative_entropy,
    sharpen,
    squared_error,
)
from fedssl.functional.contrast import masked_means, prototype_affinity
from fedssl.functional.mixing import cutmix_boxes, fixed_box, interpolate, paste
from fedssl.functional.proximal import proximal_penalty
from fedssl.functional.relation import class_relations, mean_relation, relation_distance
from fedssl.types import Output

EXCLUSIVE, NESTED = Output.EXCLUSIVE, Output.NESTED


def pixel(*values):
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_a_uniform_pixel_has_relative_entropy_one_and_a_sure_one_zero():
    for output, channels in ((EXCLUSIVE, 4), (NESTED, 2)):
        uniform = 1 / channels if output == EXCLUSIVE else 0.5
        entropy = relative_entropy(pixel(*[uniform] * channels), output)
        assert entropy.flatten().tolist() == pytest.approx([1.0] * (1 if channels == 4 else 2))
    assert relative_entropy(pixel(1.0, 0.0, 0.0), EXCLUSIVE).item() == pytest.approx(0, abs=1e-6)


def test_confidence_is_the_probability_of_the_label():
    assert confidence(pixel(0.2, 0.5, 0.3), EXCLUSIVE).flatten().tolist() == [0.5]
    assert confidence(pixel(0.75, 0.125), NESTED).flatten().tolist() == [0.75, 0.875]
    # The label has no inner class where the one around it is missing.
    assert confidence(pixel(0.25, 0.875), NESTED).flatten().tolist() == [0.75, 0.125]


def test_a_nested_label_never_lies_outside_the_class_around_it():
    assert hard_label(pixel(0.4, 0.9), NESTED).flatten().tolist() == [0, 0]
    assert hard_label(pixel(0.6, 0.9), NESTED).flatten().tolist() == [1, 1]
    assert hard_label(pixel(0.1, 0.2, 0.7), EXCLUSIVE).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("output", [EXCLUSIVE, NESTED])
def test_a_cold_temperature_leaves_the_likeliest_and_no_nan(output):
    prob = pixel(0.2, 0.4, 0.4) if output == EXCLUSIVE else pixel(0.3, 0.7, 0.5)
    expected = [0.0, 0.5, 0.5] if output == EXCLUSIVE else [0.0, 1.0, 0.5]
    assert sharpen(prob, 1e-3, output).flatten().tolist() == pytest.approx(expected)


def test_sharpening_by_hand():
    # squares 0.04, 0.25, 0.09 of sum 0.38
    sharp = sharpen(pixel(0.2, 0.5, 0.3), 0.5, EXCLUSIVE).flatten()
    assert sharp.tolist() == pytest.approx([4 / 38, 25 / 38, 9 / 38])
    # the squares of 0.6 and 0.4
    assert sharpen(pixel(0.6), 0.5, NESTED).item() == pytest.approx(36 / 52)


def test_no_gradient_flows_into_a_target_or_out_of_a_gate():
    prob = torch.rand(1, 2, 3, 3, requires_grad=True)
    target = torch.rand(1, 2, 3, 3, requires_grad=True)
    gate = torch.zeros(1, 1, 3, 3)
    gate[0, 0, 1] = 1
    squared_error(prob, target, gate).numerator.sum().backward()
    assert target.grad is None
    assert prob.grad[0, :, 0].abs().sum() == 0
    assert prob.grad[0, :, 1].abs().min() > 0


def test_scales_that_agree_cost_nothing():
    prob = torch.softmax(torch.randn(2, 3, 4, 4), 1)
    assert rectified_consistency([prob] * 4, EXCLUSIVE).abs().max() < 1e-6


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_interpolation_lies_between(share, a, b):
    mixed = interpolate(pixel(a), pixel(b), torch.tensor([share])).item()
    assert min(a, b) - 1e-5 <= mixed <= max(a, b) + 1e-5


def test_a_box_has_its_size_and_lies_anywhere():
    rng = torch.Generator().manual_seed(0)
    boxes = [fixed_box((9, 12), 2 / 3, rng) for _ in range(60)]
    assert {int(box.sum()) for box in boxes} == {6 * 8}
    rows = {int(box[0, 0].any(1).nonzero()[0]) for box in boxes}
    assert rows == {0, 1, 2, 3}


def test_cutmix_boxes_have_about_the_wanted_area_and_probability():
    rng = torch.Generator().manual_seed(0)
    for size in ((64, 48), (16, 24, 24)):
        boxes = cutmix_boxes(400, size, rng, probability=0.5, smallest=0.1, largest=0.3)
        area = boxes.flatten(1).float().mean(1)
        assert 0.4 < (area > 0).float().mean() < 0.6
        assert 0.15 < area[area > 0].mean() < 0.22
    assert not cutmix_boxes(8, (8, 8), rng, probability=0.0).any()


def test_pasting_takes_the_inside_from_the_source():
    inside = torch.tensor([True, False]).reshape(1, 1, 2)
    source, into = torch.tensor([[[1, 2]]]), torch.tensor([[[3, 4]]])
    assert paste(inside, source, into).flatten().tolist() == [1, 4]


def test_the_proximal_term_by_hand():
    parameters = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(4.0)]
    penalty = proximal_penalty(parameters, [torch.zeros(2), torch.tensor(1.0)], 0.5)
    assert penalty.item() == pytest.approx(0.25 * (1 + 4 + 9))
    penalty.backward()
    assert parameters[0].grad.tolist() == [0.5, 1.0]


def test_thresholds_by_hand():
    share = torch.tensor([0.5, 0.5])
    assert class_thresholds(share).tolist() == pytest.approx([0.94, 0.94])
    skewed = class_thresholds(torch.tensor([0.9, 0.1])).tolist()
    assert skewed == pytest.approx([0.18 + 0.84 - 0.4, 0.02 + 0.84 - 0.4])
    assert class_thresholds(torch.full((20,), 0.05), cap=0.9).tolist() == pytest.approx([0.9] * 20)
    held = class_thresholds(torch.tensor([0.9, 0.1]), floor=0.5).tolist()
    assert held == pytest.approx([0.18 + 0.84 - 0.4, 0.5])
    assert class_thresholds(share, cap=0.7, floor=0.8).tolist() == pytest.approx([0.7, 0.7])


def test_a_rare_second_class_is_taken_where_the_first_is_not_sure():
    prob = torch.tensor([[0.6, 0.4], [0.3, 0.2], [0.1, 0.4]]).T.reshape(1, 2, 3).transpose(1, 2)
    share = torch.tensor([0.85, 0.13, 0.02])
    found = select_balanced(prob, share)
    # thresholds about 0.73, 0.51, 0.48: pixel 0 is unsure and its second class common;
    # pixel 1 is unsure, and its second class is rare
    assert found.keep.tolist() == [[False, True]]
    assert found.label[0, 1] == 2


def test_a_floor_holds_thresholds_up_where_the_background_fills_most():
    prob = torch.tensor([0.3, 0.6, 0.1]).reshape(1, 3, 1)
    share = torch.tensor([0.85, 0.13, 0.02])  # the threshold of class 1 is about 0.51
    assert select_balanced(prob, share).keep.all()
    assert not select_balanced(prob, share, floor=0.65).keep.any()


def test_relations_are_softened_mean_logits_of_present_classes():
    logits = torch.tensor([[2.0, 4.0, 9.0], [0.0, 2.0, 9.0]]).reshape(1, 2, 3)
    label = torch.tensor([[0, 0, 1]])
    keep = torch.tensor([[True, True, False]])
    found = class_relations(logits, label, keep, temperature=2.0)
    assert found.present.tolist() == [[True, False]]
    e = math.exp(1.5), math.exp(0.5)
    assert found.rows[0, 0].tolist() == pytest.approx([e[0] / sum(e), e[1] / sum(e)])


def test_equal_relations_have_distance_zero_and_none_in_common_does_not_count():
    rows = torch.softmax(torch.randn(2, 3, 3), 2)
    present = torch.tensor([[True, True, True], [True, False, False]])
    relations = type(class_relations(torch.zeros(1, 3, 1), torch.zeros(1, 1).long()))(rows, present)
    distance, counts = relation_distance(relations, rows[0], torch.tensor([False, True, True]))
    assert distance.tolist() == pytest.approx([0, 0], abs=1e-7)
    assert counts.tolist() == [1, 0]


def test_relations_are_averaged_over_the_sites_that_know_a_class():
    matrices = torch.tensor([[[0.8, 0.2], [0.0, 0.0]], [[0.6, 0.4], [0.0, 0.0]]])
    mean, known = mean_relation(matrices, torch.tensor([[True, False], [True, False]]))
    torch.testing.assert_close(mean, torch.tensor([[0.7, 0.3], [0.5, 0.5]]))
    assert known.tolist() == [True, False]


def test_masked_means_of_an_empty_mask_are_absent_zeros():
    features = torch.arange(8.0).reshape(2, 2, 2)
    mask = torch.tensor([[True, True], [False, False]])
    found = masked_means(features, mask)
    assert found.mean.tolist() == [[0.5, 2.5], [0.0, 0.0]]
    assert found.present.tolist() == [True, False]


def test_affinity_prefers_the_nearer_prototype_and_is_even_without_one():
    own, others = torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    near, far = prototype_affinity(own, others)
    assert near / far == pytest.approx(math.e)
    assert prototype_affinity(torch.zeros(2), others) == [0.5, 0.5]
