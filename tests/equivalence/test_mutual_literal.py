"""The vectorised loss against a literal voxel-by-voxel transcription of the published steps."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch

from fedssl.functional.mutual import mutual_loss


def literal_reliability(prob, feature):
    """Steps 3 to 6 for one sample; prob [K, V], feature [D, V], plain loops."""
    num_classes, voxels = prob.shape
    label = [max(range(num_classes), key=lambda c: prob[c, v].item()) for v in range(voxels)]
    prototypes = []
    for c in range(num_classes):
        total, count = torch.zeros_like(feature[:, 0]), 0
        for v in range(voxels):
            if label[v] == c:
                total, count = total + feature[:, v], count + 1
        mean = total / (count + 1e-6)
        length = mean.norm().item()
        prototypes.append(mean / length if length > 0 else mean)
    reliability = []
    for v in range(voxels):
        terms = []
        for c in range(num_classes):
            length = max(feature[:, v].norm().item(), 1e-8)
            cosine = (feature[:, v] @ prototypes[c]).item() / length
            terms.append(1.0 - (cosine - prob[c, v].item()) ** 2)
        reliability.append(sum(terms) / num_classes)
    return label, reliability


def literal_entropy(prob):
    return [
        -sum(p.item() * math.log(p.item() + 1e-6) for p in prob[:, v]) for v in range(prob.shape[1])
    ]


def literal_consistency(logits, features, first, ce_input):
    """Steps 1, 2, 7 and 9: sum over ordered pairs of the weighted mean cross entropy."""
    total = torch.zeros((), dtype=logits[0].dtype)
    for student, teacher in permutations(range(len(logits)), 2):
        loss, count = torch.zeros((), dtype=logits[0].dtype), 0
        for b in range(first, logits[0].shape[0]):
            z = [x[b].flatten(1) for x in logits]
            prob = [torch.softmax(x.detach(), dim=0) for x in z]
            own, other = literal_entropy(prob[student]), literal_entropy(prob[teacher])
            label, reliability = literal_reliability(
                prob[teacher], features[teacher][b].detach().flatten(1)
            )
            for v in range(z[0].shape[1]):
                if own[v] > other[v]:
                    scores = z[student][:, v]
                    if ce_input == "probs":
                        scores = torch.softmax(scores, dim=0)
                    loss = loss - reliability[v] * torch.log_softmax(scores, dim=0)[label[v]]
                    count += 1
        total = total + loss / (count + 1e-6)
    return total


def literal_supervised(logits, target, num_labeled):
    """Step 10, averaged over the foreground classes."""
    total = torch.zeros((), dtype=logits[0].dtype)
    num_classes = logits[0].shape[1]
    for z in logits:
        prob = torch.softmax(z[:num_labeled], dim=1)
        for c in range(1, num_classes):
            overlap = size = torch.zeros((), dtype=z.dtype)
            for b in range(num_labeled):
                for p, t in zip(prob[b, c].flatten(), target[b].flatten(), strict=True):
                    hit = float(t == c)
                    overlap, size = overlap + p * hit, size + p + hit
            total = total + (1 - (2 * overlap + 1e-8) / (size + 1e-8)) / (num_classes - 1)
    return total


def draw(decoders, num_classes, dtype, shape=(3, 4, 5), channels=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    batch, *space = shape
    logits = [
        (2 * torch.randn(batch, num_classes, *space, generator=generator, dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
        for _ in range(decoders)
    ]
    features = [
        torch.randn(batch, channels, *space, generator=generator, dtype=torch.float64)
        .relu()
        .to(dtype)
        .requires_grad_()
        for _ in range(decoders)
    ]
    target = torch.randint(0, num_classes, shape, generator=generator)
    return logits, features, target


CASES = list(product([2, 3], [2, 3, 4], ["all", "unlabeled"], ["logits", "probs"]))


def both(decoders, num_classes, scope, ce_input, dtype, shape=(3, 4, 5)):
    logits, features, target = draw(decoders, num_classes, dtype, shape)
    fast = mutual_loss(
        logits, features, target, 2, gamma=0.5, beta=0.7, scope=scope, ce_input=ce_input
    )
    fast_grads = torch.autograd.grad(fast.total, logits)
    consistency = literal_consistency(logits, features, 2 * (scope == "unlabeled"), ce_input)
    supervised = literal_supervised(logits, target, 2)
    slow_grads = torch.autograd.grad(0.5 * supervised + 0.7 * consistency, logits)
    return fast, (supervised, consistency), fast_grads, slow_grads


@pytest.mark.parametrize(("decoders", "num_classes", "scope", "ce_input"), CASES)
def test_loss_and_gradients_equal_the_literal_loops_in_double_precision(
    decoders, num_classes, scope, ce_input
):
    fast, slow, fast_grads, slow_grads = both(
        decoders, num_classes, scope, ce_input, torch.float64, (3, 3, 4)
    )
    assert fast.supervised.item() == pytest.approx(slow[0].item(), abs=1e-9)
    assert fast.consistency.item() == pytest.approx(slow[1].item(), abs=1e-9)
    assert fast.total.item() == pytest.approx((0.5 * slow[0] + 0.7 * slow[1]).item(), abs=1e-9)
    for a, b in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_loss_and_gradients_equal_the_literal_loops_in_single_precision():
    fast, slow, fast_grads, slow_grads = both(2, 2, "all", "logits", torch.float32)
    assert fast.total.item() == pytest.approx((0.5 * slow[0] + 0.7 * slow[1]).item(), abs=1e-5)
    for a, b in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_three_dimensional_batch_equals_the_literal_loops():
    fast, slow, fast_grads, slow_grads = both(2, 2, "all", "logits", torch.float64, (3, 2, 3, 4))
    assert fast.total.item() == pytest.approx((0.5 * slow[0] + 0.7 * slow[1]).item(), abs=1e-9)
    for a, b in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
