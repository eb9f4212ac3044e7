"""Centralised baselines: the unsupervised loss against loops written from the formula.

Every loop reads the networks' own outputs, without dropout, on a batch of a synthetic site.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from literal_pixels import (
    ENCODINGS,
    SIZE,
    as_bits,
    close,
    cross_entropy,
    drawn_box,
    label_of,
    labels_of,
    largest_labels,
    literal_region,
    mean_square,
    pixels,
    soft_dice,
    value,
)

from fedssl.functional.losses import reduce_term
from fedssl.seeds import generators
from fedssl.types import Output, Role


@ENCODINGS
@pytest.mark.parametrize("view", ["weak", "strong"])
def test_mean_teacher(bench, output, view):
    x = bench("mean_teacher", output=output, noise=0.0, view=view, weight=0.7)
    x.begin()
    batch = x.batches.next_unlabeled()
    target, prob = x.prob(batch.views["weak"].image), x.prob(batch.views[view].image)
    if view == "weak":  # the teacher is the received network: nothing to learn yet
        assert value(x.step(None, batch)) == pytest.approx(0, abs=1e-9)
    else:
        close(value(x.step(None, batch)), 0.7 * mean_square(prob, target))


@ENCODINGS
def test_ua_mt(bench, output):
    x = bench("ua_mt", output=output, noise=0.0, weight=1.0, threshold=0.85, passes=3)
    x.begin()
    batch = x.batches.next_unlabeled()
    teacher, student = x.prob(batch.views["weak"].image), x.prob(batch.views["strong"].image)
    ramp = math.exp(-5 * (1 - 1 / 6) ** 2)
    limit = 0.85 + 0.15 * ramp
    total = count = 0.0
    kept = rejected = 0
    for (_, q), (_, p) in zip(pixels(teacher), pixels(student), strict=True):
        if output == Output.EXCLUSIVE:
            entropy = -sum(v * math.log(v) for v in q)
            masks = [entropy < limit * math.log(len(q))] * len(q)
        else:
            masks = [
                -(v * math.log(v) + (1 - v) * math.log(1 - v)) < limit * math.log(2) for v in q
            ]
        kept, rejected = kept + sum(masks), rejected + len(masks) - sum(masks)
        total += sum(m * (a - b) ** 2 for m, a, b in zip(masks, p, q, strict=True))
        count += sum(masks)
    assert kept, "the test needs both kinds of pixels"
    assert rejected
    close(value(x.step(None, batch)), total / count)


@ENCODINGS
def test_pseudo_label(bench, output):
    x = bench("pseudo_label", output=output)
    x.begin()
    batch = x.batches.next_unlabeled()
    prob = x.prob(batch.views["weak"].image)
    losses = [cross_entropy(p, label_of(p, output), output) for _, p in pixels(prob)]
    classes = 1 if output == Output.EXCLUSIVE else 2
    close(value(x.step(None, batch)), sum(losses) / len(losses) / classes)


@ENCODINGS
def test_fixmatch(bench, output):
    threshold = 0.4 if output == Output.EXCLUSIVE else 0.55
    x = bench("fixmatch", output=output, threshold=threshold)
    x.begin()
    batch = x.batches.next_unlabeled()
    weak, strong = x.prob(batch.views["weak"].image), x.prob(batch.views["strong"].image)
    total, count, kept = 0.0, 0, 0
    for (_, q), (_, p) in zip(pixels(weak), pixels(strong), strict=True):
        bits = label_of(q, output)
        if output == Output.EXCLUSIVE:
            count += 1
            if max(q) > threshold:
                kept, total = kept + 1, total + cross_entropy(p, bits, output)
            continue
        for a, b, bit in zip(q, p, bits, strict=True):
            count += 1
            if max(a, 1 - a) > threshold:
                kept, total = kept + 1, total - math.log(b if bit else 1 - b)
    assert 0 < kept < count
    close(value(x.step(None, batch)), total / count)


@ENCODINGS
def test_cps(bench, output):
    x = bench("cps", output=output, weight=0.3)
    x.begin()
    batch = x.batches.next_unlabeled()
    image = batch.views["weak"].image
    probs = [x.prob(image, x.model.first), x.prob(image, x.model.second)]
    total = count = 0.0
    for (_, p), (_, q) in zip(pixels(probs[0]), pixels(probs[1]), strict=True):
        total += cross_entropy(p, label_of(q, output), output)
        total += cross_entropy(q, label_of(p, output), output)
        count += 1 if output == Output.EXCLUSIVE else 2
    close(value(x.step(None, batch)), 0.3 * total / count)


@ENCODINGS
def test_ict(bench, output):
    x = bench("ict", output=output, weight=1.0)
    x.begin()
    batch = x.batches.next_unlabeled()
    image = batch.views["weak"].image
    share = generators(0, "objective").numpy.beta(0.2, 0.2, size=2).tolist()
    loss = 0.0
    for i, m in enumerate(share):
        mixed = (1 - m) * image[i] + m * image[1 - i]
        q = x.prob(image)
        target = (1 - m) * q[i] + m * q[1 - i]
        loss += mean_square(x.prob(mixed[None]), target[None]) / 2
    close(value(x.step(None, batch)), loss)


@pytest.mark.parametrize("decoders", [2, 3])
@ENCODINGS
def test_mc_net(bench, output, decoders):
    x = bench("mc_net", output=output, decoders=decoders, temperature=0.5)
    x.begin()
    batch = x.batches.next_unlabeled()
    logits = x.model.forward_all(batch.views["weak"].image).logits
    probs = [x.activate(z) for z in logits]
    loss = 0.0
    for i in range(decoders):
        for j in range(decoders):
            if i != j:
                terms = []
                for (_, p), (_, q) in zip(pixels(probs[i]), pixels(probs[j]), strict=True):
                    for a, b in zip(p, q, strict=True):
                        sharp = b**2 / (b**2 + (1 - b) ** 2)
                        terms.append((a - sharp) ** 2)
                loss += sum(terms) / len(terms)
    close(value(x.step(None, batch)), loss)


@ENCODINGS
def test_mc_net_of_a_mixed_site_is_one_mean_over_all_images(bench, output):
    x, y = (bench("mc_net", Role.MIXED, output=output) for _ in range(2))
    x.begin()
    y.begin()
    labeled, unlabeled = x.batches.next_labeled(), x.batches.next_unlabeled()
    images = torch.cat([labeled.image, unlabeled.views["weak"].image])
    whole = replace(unlabeled, views={"weak": replace(unlabeled.views["weak"], image=images)})
    close(value(x.step(labeled, unlabeled)), value(y.step(None, whole)))


@ENCODINGS
def test_urpc_of_one_image(bench, output):
    x = bench("urpc", output=output, weight=1.0, scales=2)
    x.begin()
    batch = x.batches.next_unlabeled()
    views = {k: replace(v, image=v.image[:1], theta=v.theta[:1]) for k, v in batch.views.items()}
    batch = replace(batch, views=views)
    probs = [x.activate(z) for z in x.model.scales(batch.views["weak"].image)]
    assert len(probs) == 2
    rows = [[p for _, p in pixels(prob)] for prob in probs]
    loss = 0.0
    for own in rows:
        rectified = weight = divergence = 0.0
        for v, p in enumerate(own):
            m = [(a + b) / 2 for a, b in zip(rows[0][v], rows[1][v], strict=True)]
            kl = sum(a * math.log(a / b) for a, b in zip(m, p, strict=True))
            if output == Output.NESTED:
                kl += sum((1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(m, p, strict=True))
            square = sum((a - b) ** 2 for a, b in zip(m, p, strict=True)) / len(m)
            rectified += square * math.exp(-kl)
            weight += math.exp(-kl)
            divergence += kl
        loss += (rectified / weight + divergence / len(own)) / 2
    close(value(x.step(None, batch)), loss)


@ENCODINGS
def test_bcp_between_unlabeled_images(bench, output):
    x = bench("bcp", output=output, weight=0.5)
    x.begin()
    batch = x.batches.next_unlabeled()
    image, box = batch.views["weak"].image, drawn_box()
    label = largest_labels(x.prob(image), output)
    mixed = torch.where(box, image[[1, 0]], image)
    target = torch.where(box, label[[1, 0]], label)
    everywhere = [True] * SIZE * SIZE
    expected = literal_region(x.prob(mixed), as_bits(target), everywhere, output)
    close(value(x.step(None, batch)), 0.5 * expected)


@ENCODINGS
def test_bcp_at_a_mixed_site(bench, output):
    x = bench("bcp", role=Role.MIXED, output=output, weight=0.5, ramp_rounds=0)
    x.begin()
    ours, batch = x.batches.next_labeled(), x.batches.next_unlabeled()
    theirs, box = batch.views["weak"].image, drawn_box()
    pseudo = as_bits(largest_labels(x.prob(theirs), output))
    truth = torch.stack([(ours.label == 1), (ours.label == 2)], 1)
    if output == Output.NESTED:
        truth[:, 0] = ours.label >= 1
    inward = x.prob(torch.where(box, theirs, ours.image))
    outward = x.prob(torch.where(box, ours.image, theirs))
    inside, around = box.flatten().tolist(), (~box).flatten().tolist()
    labeled = literal_region(inward, as_bits(truth.int()), around, output)
    labeled += literal_region(outward, as_bits(truth.int()), inside, output)
    unlabeled = literal_region(inward, pseudo, inside, output)
    unlabeled += literal_region(outward, pseudo, around, output)
    losses = x.step(ours, batch)
    close(losses.supervised.item(), labeled)
    lambda_t = 0.5 * math.exp(-5 * (1 - 1 / 4) ** 2)
    close(value(losses), lambda_t * unlabeled)


@ENCODINGS
def test_unimatch_without_cutmix_and_dropout(bench, output):
    threshold = 0.4 if output == Output.EXCLUSIVE else 0.55
    x = bench("unimatch", output=output, threshold=threshold, cutmix=0.0, feature_dropout=0.0)
    x.begin()
    batch = x.batches.next_unlabeled()
    weak = x.prob(batch.views["weak"].image)
    bits = labels_of(weak, output)

    def keeps(p):
        if output == Output.EXCLUSIVE:
            return [max(p) > threshold] * 2
        return [max(v, 1 - v) > threshold for v in p]

    def dice(prob):
        kept = [[keeps(p) for b, p in pixels(weak) if b == i] for i in range(2)]
        return sum(soft_dice(prob, bits[i], i, output, kept[i]) for i in range(2)) / 2

    terms = {t.name: reduce_term(t).item() for t in x.step(None, batch).unsupervised}
    close(terms["strong-1"], dice(x.prob(batch.views["strong"].image)) / 4)
    close(terms["features"], dice(weak) / 2)
    assert terms["strong-2"] != terms["strong-1"]
