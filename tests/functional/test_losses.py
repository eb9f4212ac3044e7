from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss

from fedssl.functional.labels import foreground_targets
from fedssl.functional.losses import (
    masked_pixel_loss,
    masked_soft_dice,
    reduce_term,
    soft_dice_loss,
    supervised_loss,
)
from fedssl.types import Output, Term

EXCLUSIVE, NESTED = Output.EXCLUSIVE, Output.NESTED
BOTH = pytest.mark.parametrize("output", [EXCLUSIVE, NESTED])


def sample(output, foreground=2, size=(4, 5), batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = foreground + (output == EXCLUSIVE)
    logits = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
    label = torch.randint(0, foreground + 1, (batch, *size), generator=generator)
    target = foreground_targets(label, foreground, output)
    mask = torch.randint(0, 2, target.shape, generator=generator, dtype=torch.uint8)
    return logits.requires_grad_(), label, target, mask


def test_dice_loss_of_a_half_overlap_is_one_half():
    prob = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    assert soft_dice_loss(prob, target, smooth=0.0).item() == pytest.approx(0.5)
    assert soft_dice_loss(target, target).item() == pytest.approx(0.0)


def test_dice_loss_pools_the_batch_per_class_before_dividing():
    prob = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(2, 1, 2)
    target = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).reshape(2, 1, 2)
    assert soft_dice_loss(prob, target, smooth=0.0).item() == pytest.approx(1 - 4 / 6)


def test_dice_loss_agrees_with_monai():
    generator = torch.Generator().manual_seed(1)
    prob = torch.rand(2, 3, 4, 4, 4, generator=generator)
    target = (torch.rand(2, 3, 4, 4, 4, generator=generator) > 0.5).float()
    torch.testing.assert_close(soft_dice_loss(prob, target), DiceLoss(batch=True)(prob, target))


def test_dice_loss_ignores_masked_pixels():
    prob = torch.tensor([1.0, 0.7, 0.0]).reshape(1, 1, 3).requires_grad_()
    target = torch.tensor([1.0, 0.0, 1.0]).reshape(1, 1, 3)
    mask = torch.tensor([1, 0, 1]).reshape(1, 1, 3)
    loss = soft_dice_loss(prob, target, mask, smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 / 3)
    loss.backward()
    assert prob.grad[0, 0, 1] == 0


def test_supervised_loss_of_uniform_logits_by_hand():
    label = torch.tensor([[[0, 1], [1, 1]]])
    exclusive = supervised_loss(torch.zeros(1, 2, 2, 2), label, EXCLUSIVE)
    nested = supervised_loss(torch.zeros(1, 1, 2, 2), label, NESTED)
    expected = (1 - 3 / 5) + math.log(2)
    assert exclusive.item() == pytest.approx(expected, abs=1e-5)
    assert nested.item() == pytest.approx(expected, abs=1e-5)


@BOTH
def test_supervised_weights_choose_the_parts(output):
    logits, label, _, _ = sample(output)
    dice = supervised_loss(logits, label, output, ce_weight=0.0)
    ce = supervised_loss(logits, label, output, dice_weight=0.0)
    both = supervised_loss(logits, label, output, dice_weight=2.0, ce_weight=3.0)
    torch.testing.assert_close(both, 2 * dice + 3 * ce)
    assert dice > 0
    assert ce > 0


@BOTH
def test_supervised_loss_of_a_confident_right_answer_vanishes(output):
    _, label, target, _ = sample(output)
    if output == EXCLUSIVE:
        target = torch.cat((1 - target.sum(1, keepdim=True), target), dim=1)
    assert supervised_loss(40 * (2 * target - 1), label, output).item() < 1e-5


@BOTH
def test_supervised_loss_is_differentiable(output):
    logits, label, _, _ = sample(output, size=(2, 2), batch=2)
    assert torch.autograd.gradcheck(lambda z: supervised_loss(z, label, output), (logits,))


def test_half_precision_logits_are_reduced_in_float32():
    logits, label, target, mask = sample(NESTED)
    half = logits.detach().to(torch.bfloat16)
    assert supervised_loss(half, label, NESTED).dtype == torch.float32
    assert masked_pixel_loss(half, target, mask, NESTED).numerator.dtype == torch.float32


def test_nested_pixel_loss_equals_a_loop_over_trusted_pixels():
    logits, _, target, mask = sample(NESTED)
    numerator, denominator = masked_pixel_loss(logits, target, mask, NESTED)
    for b in range(3):
        expected, count = 0.0, 0
        for z, t, m in zip(
            logits[b].flatten().tolist(),
            target[b].flatten().tolist(),
            mask[b].flatten().tolist(),
            strict=True,
        ):
            if m:
                p = 1 / (1 + math.exp(-z))
                expected -= math.log(p if t else 1 - p)
                count += 1
        assert numerator[b].item() == pytest.approx(expected, rel=1e-9)
        assert denominator[b].item() == count


def test_exclusive_pixel_loss_equals_a_loop_over_pixels_that_all_classes_trust():
    logits, label, target, mask = sample(EXCLUSIVE)
    numerator, denominator = masked_pixel_loss(logits, target, mask, EXCLUSIVE)
    for b in range(3):
        expected, count = 0.0, 0
        for y in range(4):
            for x in range(5):
                if mask[b, 0, y, x] and mask[b, 1, y, x]:
                    z = logits[b, :, y, x].tolist()
                    total = sum(math.exp(v) for v in z)
                    expected -= math.log(math.exp(z[label[b, y, x]]) / total)
                    count += 1
        assert numerator[b].item() == pytest.approx(expected, rel=1e-9)
        assert denominator[b].item() == count


@BOTH
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_masked_pixels_have_exactly_zero_gradient_even_when_not_finite(output, bad):
    logits, _, target, mask = sample(output)
    mask[:, :, 0] = 0
    logits = logits.detach()
    logits[:, :, 0] = bad
    logits.requires_grad_()
    keep = mask.bool().all(1, keepdim=True) if output == EXCLUSIVE else mask.bool()
    for loss in (
        masked_pixel_loss(logits, target, mask, output).numerator.sum(),
        masked_soft_dice(logits, target, mask, output).sum(),
    ):
        assert torch.isfinite(loss)
        (grad,) = torch.autograd.grad(loss, logits)
        assert (grad[~keep.expand_as(grad)] == 0).all()
        assert (grad[keep.expand_as(grad)] != 0).any()


@BOTH
def test_empty_masks_give_zero_loss_and_zero_gradient(output):
    logits, _, target, mask = sample(output)
    numerator, denominator = masked_pixel_loss(logits, target, mask * 0, output)
    dice = masked_soft_dice(logits, target, mask * 0, output)
    assert numerator.tolist() == denominator.tolist() == dice.tolist() == [0, 0, 0]
    term = Term("empty", numerator, denominator)
    assert reduce_term(term).item() == 0
    (grad,) = torch.autograd.grad(reduce_term(term) + dice.sum(), logits)
    assert (grad == 0).all()


@BOTH
def test_a_full_mask_gives_the_mean_pixel_loss_of_the_supervised_case(output):
    logits, label, target, mask = sample(output)
    numerator, denominator = masked_pixel_loss(logits, target, torch.ones_like(mask), output)
    expected = supervised_loss(logits, label, output, dice_weight=0.0)
    torch.testing.assert_close(numerator.sum() / denominator.sum(), expected)


@BOTH
def test_masked_dice_of_one_sample_equals_the_masked_dice_loss(output):
    logits, _, target, mask = sample(output, foreground=1)
    prob = logits.softmax(1)[:, 1:] if output == EXCLUSIVE else logits.sigmoid()
    each = masked_soft_dice(logits, target, mask, output)
    assert each.shape == (3,)
    for b in range(3):
        one = slice(b, b + 1)
        torch.testing.assert_close(each[b], soft_dice_loss(prob[one], target[one], mask[one]))


def test_reduction_weights_samples_before_dividing():
    term = Term("t", torch.tensor([2.0, 6.0]), torch.tensor([1.0, 2.0]), scale=0.5)
    assert reduce_term(term).item() == pytest.approx(0.5 * 8 / 3)
    weighted = reduce_term(term, torch.tensor([1.0, 0.5]))
    assert weighted.item() == pytest.approx(0.5 * 5 / 2)
    assert reduce_term(term, torch.zeros(2)).item() == 0


def test_the_denominator_carries_no_gradient():
    denominator = torch.tensor([1.0, 2.0], requires_grad=True)
    numerator = torch.tensor([2.0, 6.0], requires_grad=True)
    reduce_term(Term("t", numerator, denominator)).backward()
    assert denominator.grad is None
    assert numerator.grad.tolist() == pytest.approx([1 / 3, 1 / 3])
