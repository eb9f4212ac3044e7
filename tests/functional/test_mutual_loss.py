from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.functional.mutual import mutual_loss, pooled_dice_loss, teacher_view


def draw(batch=3, num_classes=2, space=(4, 5), decoders=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = [
        torch.randn(batch, num_classes, *space, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(decoders)
    ]
    features = [
        torch.randn(batch, 6, *space, generator=generator, dtype=dtype).relu().requires_grad_()
        for _ in range(decoders)
    ]
    target = torch.randint(0, num_classes, (batch, *space), generator=generator)
    return logits, features, target


def one_voxel(probability):
    """Logits [1, 2, 1, 1] of one voxel with this foreground probability."""
    p = torch.tensor([1 - probability, probability], dtype=torch.float64)
    return p.log().reshape(1, 2, 1, 1)


def test_one_voxel_by_hand_the_sure_decoder_teaches_the_unsure_one():
    # Feature and prototype of the only voxel coincide: cosine 1 with class 1, 0 with class 0.
    unsure, sure = one_voxel(0.6).requires_grad_(), one_voxel(0.9).requires_grad_()
    feature = torch.tensor([3.0, 4.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    loss = mutual_loss([unsure, sure], [feature, feature], torch.zeros(0, 1, 1), 0, beta=2.0)
    reliability = 1 - (0.1**2 + 0.1**2) / 2
    expected = reliability * -math.log(0.6) / (1 + 1e-6)
    assert loss.consistency.item() == pytest.approx(expected, abs=1e-12)
    assert loss.total.item() == pytest.approx(2 * expected, abs=1e-12)
    assert loss.pairs == ((0, 1), (1, 0))
    assert loss.selected.tolist() == [1.0, 0.0]
    assert loss.reliability[1].item() == pytest.approx(reliability)
    grads = torch.autograd.grad(loss.total, [unsure, sure])
    assert grads[0].abs().sum() > 0
    assert grads[1].abs().sum() == 0


def test_supervised_dice_by_hand_is_summed_over_decoders():
    # p_1 = 0.6 at two voxels, one of them foreground: 1 - 2 * 0.6 / (1.2 + 1).
    logits = one_voxel(0.6).expand(1, 2, 1, 2)
    target = torch.tensor([[[1, 0]]])
    loss = mutual_loss([logits, logits], [torch.ones(1, 1, 1, 2)] * 2, target, 1, gamma=0.5)
    one = 1 - 1.2 / 2.2
    assert loss.supervised.item() == pytest.approx(2 * one)
    assert loss.total.item() == pytest.approx(0.5 * 2 * one)


def test_no_gradient_reaches_the_features():
    logits, features, target = draw()
    loss = mutual_loss(logits, features, target, 1)
    grads = torch.autograd.grad(loss.total, features, allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


def test_equal_decoders_tie_everywhere_and_select_nothing():
    logits, features, target = draw()
    twin = logits[0].detach().clone().requires_grad_()
    loss = mutual_loss([logits[0], twin], features, target, 0)
    assert loss.selected.tolist() == [0.0, 0.0]
    assert loss.consistency.item() == 0.0
    grads = torch.autograd.grad(loss.total, [logits[0], twin])
    assert all(g.abs().sum() == 0 for g in grads)


def test_without_ties_two_directions_partition_the_voxels():
    logits, features, target = draw()
    loss = mutual_loss(logits, features, target, 0)
    assert loss.selected.sum().item() == pytest.approx(1.0)
    assert (loss.denominator.sum(0) == 20).all()


def test_an_absent_class_has_similarity_zero_and_stays_finite():
    logits = one_voxel(0.9).expand(2, 2, 2, 2).contiguous()
    feature = torch.ones(2, 3, 2, 2, dtype=torch.float64)
    view = teacher_view(logits, feature)
    # class 1: cosine 1; class 0 is nowhere: cosine 0, p = 0.1
    torch.testing.assert_close(view.reliability, torch.full_like(view.reliability, 0.99))
    present = teacher_view(logits, feature, "present")
    torch.testing.assert_close(present.reliability, torch.full_like(present.reliability, 0.99))


def test_present_classes_ignore_what_the_pseudo_label_does_not_contain():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().reshape(1, 3, 1, 1).double()
    feature = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    every = teacher_view(logits, feature).reliability.item()
    present = teacher_view(logits, feature, "present").reliability.item()
    assert every == pytest.approx(1 - (0.25 + 0.09 + 0.04) / 3, abs=1e-7)
    assert present == pytest.approx(1 - 0.25, abs=1e-7)


def test_zero_features_give_similarity_zero_not_nan():
    logits, features, target = draw()
    loss = mutual_loss(logits, [torch.zeros_like(f) for f in features], target, 1)
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(t.reliability).all() for t in loss.teachers)


def test_without_labeled_samples_there_is_only_consistency():
    logits, features, _ = draw()
    loss = mutual_loss(logits, features, torch.zeros(0, 4, 5, dtype=torch.long), 0, beta=0.3)
    assert loss.supervised.item() == 0.0
    assert loss.total.item() == pytest.approx(0.3 * loss.consistency.item())


def test_unlabeled_scope_is_the_loss_of_the_unlabeled_part_alone():
    logits, features, target = draw(batch=4)
    loss = mutual_loss(logits, features, target, 2, scope="unlabeled")
    alone = mutual_loss([z[2:] for z in logits], [f[2:] for f in features], target[2:], 0)
    assert loss.consistency.item() == pytest.approx(alone.consistency.item())
    assert loss.numerator.shape == (2, 2)


def test_unlabeled_scope_of_a_fully_labeled_batch_has_no_consistency():
    logits, features, target = draw(batch=2)
    loss = mutual_loss(logits, features, target, 2, scope="unlabeled")
    assert loss.consistency.item() == 0.0
    assert torch.isfinite(loss.total)
    assert loss.reliability.tolist() == [0.0, 0.0]


def test_target_may_hold_the_labeled_samples_only():
    logits, features, target = draw()
    whole = mutual_loss(logits, features, target, 1)
    part = mutual_loss(logits, features, target[:1], 1)
    assert whole.total.item() == part.total.item()


def test_three_decoders_use_all_six_ordered_pairs():
    logits, features, target = draw(decoders=3)
    loss = mutual_loss(logits, features, target, 0)
    assert len(loss.pairs) == 6
    per_pair = loss.numerator.sum(1) / (loss.denominator.sum(1) + 1e-6)
    assert loss.consistency.item() == pytest.approx(per_pair.sum().item())


def test_probabilities_as_input_apply_softmax_twice():
    # Decoder 0 (p = 0.4) learns class 1 from decoder 1 (p = 0.9).
    logits = [one_voxel(0.4), one_voxel(0.9)]
    features = [torch.ones(1, 1, 1, 1, dtype=torch.float64)] * 2
    reliability = 1 - (0.1**2 + 0.1**2) / 2
    plain = mutual_loss(logits, features, torch.zeros(0), 0, ce_input="logits")
    double = mutual_loss(logits, features, torch.zeros(0), 0, ce_input="probs")
    assert plain.consistency.item() == pytest.approx(reliability * -math.log(0.4), rel=1e-5)
    twice = math.exp(0.4) / (math.exp(0.4) + math.exp(0.6))
    assert double.consistency.item() == pytest.approx(reliability * -math.log(twice), rel=1e-5)


def test_dice_of_present_classes_skips_classes_without_a_voxel():
    prob = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1)
    target = torch.tensor([[[1]]])
    first = 1 - 2 * 0.5 / 1.5
    assert pooled_dice_loss(prob, target, "present").item() == pytest.approx(first)
    assert pooled_dice_loss(prob, target).item() == pytest.approx((first + 1) / 2)
    nothing = torch.zeros(1, 1, 1, dtype=torch.long)
    assert pooled_dice_loss(prob, nothing, "present").item() == 0.0


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_dice_of_absent_classes_counts_in_the_binary_loss_only(num_classes):
    logits, features, _ = draw(num_classes=num_classes)
    target = torch.zeros(3, 4, 5, dtype=torch.long)
    if num_classes > 2:
        target[:, 0] = 2
    loss = mutual_loss(logits, features, target, 3).supervised
    prob = [z.softmax(1)[:, -2 if num_classes > 2 else 1] for z in logits]
    truth = (target == 2).double()
    dice = [1 - (2 * (p * truth).sum() + 1e-8) / (p.sum() + truth.sum() + 1e-8) for p in prob]
    assert loss.item() == pytest.approx(sum(dice).item())


def test_a_target_may_have_an_axis_of_one_channel():
    logits, features, target = draw()
    plain = mutual_loss(logits, features, target, 1)
    assert mutual_loss(logits, features, target[:, None], 1).total.item() == plain.total.item()


def test_autocast_changes_nothing():
    logits, features, target = draw(dtype=torch.float32, space=(8, 8))
    plain = mutual_loss(logits, features, target, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = mutual_loss(logits, features, target, 1)
    assert cast.total.dtype == torch.float32
    assert cast.total.item() == plain.total.item()


def test_half_precision_logits_are_computed_in_single_precision():
    logits, features, target = draw(dtype=torch.float32, space=(8, 8))
    half = [z.detach().bfloat16() for z in logits], [f.detach().bfloat16() for f in features]
    loss = mutual_loss(*half, target, 1)
    single = mutual_loss([z.float() for z in half[0]], [f.float() for f in half[1]], target, 1)
    assert loss.total.item() == single.total.item()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num_classes=st.integers(2, 5), labeled=st.integers(0, 3))
def test_loss_is_finite_and_reliability_lies_in_the_unit_interval(seed, num_classes, labeled):
    logits, features, target = draw(num_classes=num_classes, seed=seed)
    loss = mutual_loss(logits, features, target, labeled)
    assert torch.isfinite(loss.total)
    assert loss.consistency >= 0
    for teacher in loss.teachers:
        assert (teacher.reliability >= 0).all()
        assert (teacher.reliability <= 1).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_loss_does_not_depend_on_the_order_of_the_samples(seed):
    logits, features, target = draw(seed=seed)
    order = torch.tensor([2, 0, 1])
    a = mutual_loss(logits, features, target, 3)
    b = mutual_loss([z[order] for z in logits], [f[order] for f in features], target[order], 3)
    assert a.total.item() == pytest.approx(b.total.item(), abs=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": "labeled"}, "choose one of"),
        ({"ce_input": "logit"}, "choose one of"),
        ({"classes": "some"}, "choose one of"),
        ({"num_labeled": 4}, "exceeds batch"),
        ({"logits": 1}, "two or more decoders"),
        ({"target": (3, 5, 4)}, "target has shape"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    logits, features, target = draw()
    if "logits" in change:
        logits = logits[:1]
        change = {}
    if "target" in change:
        target = torch.zeros(change["target"])
        change = {}
    arguments = {"num_labeled": 1} | change
    with pytest.raises(ValueError, match=message):
        mutual_loss(logits, features, target, **arguments)


def test_shapes_that_differ_between_decoders_are_refused():
    logits, features, target = draw()
    with pytest.raises(ValueError, match="logits differ"):
        mutual_loss([logits[0], logits[1][..., :4]], features, target, 1)
    with pytest.raises(ValueError, match="do not fit"):
        mutual_loss(logits, [features[0], features[1][..., :4]], target, 1)
