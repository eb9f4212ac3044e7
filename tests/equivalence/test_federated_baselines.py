"""Federated baselines: the unsupervised loss against loops written from the formula.

Every loop reads the networks' own outputs, without dropout, on a batch of a synthetic site.
"""

from __future__ import annotations

import math

import pytest
import torch
from literal_pixels import (
    ENCODINGS,
    as_bits,
    close,
    cross_entropy,
    labels_of,
    mean_square,
    pixels,
    soft_dice,
    value,
)

from fedssl.functional.losses import reduce_term
from fedssl.methods import METHODS
from fedssl.seeds import seeded
from fedssl.types import Output


@ENCODINGS
def test_fed_consist(bench, output):
    x = bench("fed_consist", output=output, perturbation="strong")
    x.begin()
    batch = x.batches.next_unlabeled()
    bits = labels_of(x.prob(batch.views["weak"].image), output)
    prob = x.prob(batch.views["strong"].image)
    expected = sum(soft_dice(prob, bits[i], i, output) for i in range(2)) / 2
    close(value(x.step(None, batch)), expected)


@ENCODINGS
def test_rscfed(bench, output):
    x = bench("rscfed", output=output)
    x.begin()
    batch = x.batches.next_unlabeled()
    teacher, student = x.prob(batch.views["weak"].image), x.prob(batch.views["strong"].image)
    total = count = 0.0
    for (_, q), (_, p) in zip(pixels(teacher), pixels(student), strict=True):
        powers = [v**2 for v in q]
        if output == Output.EXCLUSIVE:
            sharp = [v / sum(powers) for v in powers]
        else:
            sharp = [v**2 / (v**2 + (1 - v) ** 2) for v in q]
        total += sum((a - b) ** 2 for a, b in zip(p, sharp, strict=True))
        count += 1
    close(value(x.step(None, batch)), 0.02 * total / count)


def test_fedirm_relations(bench):
    x = bench("fedirm", weight=1.0, noise=0.0, max_entropy=1.0, min_confidence=0.36, passes=2)
    generator = torch.Generator().manual_seed(4)
    received = torch.softmax(torch.randn(3, 3, generator=generator), 1)
    valid = torch.tensor([True, False, True])
    x.begin(relation=received, relation_valid=valid)
    batch = x.batches.next_unlabeled()
    weak = x.prob(batch.views["weak"].image)
    logits = x.model(batch.views["strong"].image).logits
    sums = {}
    for (b, q), (_, z) in zip(pixels(weak), pixels(logits), strict=True):
        if max(q) >= 0.36:
            c = max(range(3), key=lambda k: q[k])
            old, n = sums.get((b, c), ([0.0] * 3, 0))
            sums[b, c] = ([a + v for a, v in zip(old, z, strict=True)], n + 1)
    losses = []
    for b in range(2):
        rows = []
        for c in (0, 2):
            if (b, c) in sums:
                total, n = sums[b, c]
                powers = [math.exp(v / n / 2.0) for v in total]
                p = [v / sum(powers) for v in powers]
                q = received[c].tolist()
                forward = sum(a * math.log(a / e) for a, e in zip(p, q, strict=True))
                backward = sum(e * math.log(e / a) for a, e in zip(p, q, strict=True))
                rows.append((forward + backward) / 2)
        if rows:
            losses.append(sum(rows) / len(rows))
    assert losses
    terms = {t.name: reduce_term(t).item() for t in x.step(None, batch).unsupervised}
    close(terms["relation"], sum(losses) / len(losses))
    close(terms["consistency"], mean_square(x.activate(logits), weak))


@pytest.fixture
def semiseg(bench, request):
    """The objective with a mixture of other weights and a bank of three sites, and a batch."""
    x = bench("fedsemiseg", output=request.param, contrast=0.5)
    with seeded(9, torch.device("cpu")):
        other = METHODS["fedsemiseg"].build_model(x.run, x.task)
    with torch.no_grad():  # enough foreground for both to agree on some
        for net in (x.model, other):
            net.head.bias += 0.3
    bank = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(4))
    bank[1, 1] = 0.0  # this site's images had no background
    mixture = {f"auxiliary/{k}": v.clone() for k, v in other.state_dict().items()}
    x.begin(**mixture, bank=bank)
    batch = x.batches.next_unlabeled()
    image = batch.views["weak"].image
    own, others = (labels_of(x.prob(image, net), request.param) for net in (x.model, other))
    agreed = [
        [[int(i == j) for i, j in zip(a, b, strict=True)] for a, b in zip(*rows, strict=True)]
        for rows in zip(own, others, strict=True)
    ]
    out = x.model(batch.views["strong"].image)
    terms = {t.name: reduce_term(t).item() for t in x.step(None, batch).unsupervised}
    return x, out, own, agreed, bank, terms


BOTH = pytest.mark.parametrize("semiseg", [Output.NESTED, Output.EXCLUSIVE], indirect=True)


@BOTH
def test_fedsemiseg_learns_what_two_models_agree_on(semiseg):
    x, out, own, agreed, _, terms = semiseg
    flat_own, flat_agreed = ([p for sample in rows for p in sample] for rows in (own, agreed))
    total, count = 0.0, 0
    for (_, p), bits, same in zip(
        pixels(x.activate(out.logits)), flat_own, flat_agreed, strict=True
    ):
        if x.task.output == Output.EXCLUSIVE:
            if all(same):
                total, count = total + cross_entropy(p, bits, Output.EXCLUSIVE), count + 1
            continue
        for v, bit, ok in zip(p, bits, same, strict=True):
            if ok:
                total, count = total - math.log(v if bit else 1 - v), count + 1
    assert 0 < count < 2 * len(flat_own)
    close(terms["agreed"], total / count)


@BOTH
def test_fedsemiseg_reports_the_share_of_pixels_that_it_learns_from(semiseg):
    x, _, _, agreed, _, _ = semiseg
    same = [bit for rows in agreed for pixel in rows for bit in pixel]
    if x.task.output == Output.EXCLUSIVE:
        same = [all(pixel) for rows in agreed for pixel in rows]
    assert 0 < sum(same) < len(same)
    assert x.objective.metrics()["trusted"] == pytest.approx(sum(same) / len(same))


@BOTH
def test_fedsemiseg_contrasts_agreed_foreground_with_the_bank(semiseg):
    _, out, own, agreed, bank, terms = semiseg
    losses = []
    for sample, feature in enumerate(out.features.detach().flatten(2)):
        chosen = [
            feature[:, v]
            for v, (bits, same) in enumerate(zip(own[sample], agreed[sample], strict=True))
            if any(i and ok for i, ok in zip(bits, same, strict=True))
        ]
        if not chosen:
            continue
        q = torch.stack(chosen).mean(0)
        negative = sum(math.exp(cosine(q, bank[i, 1]) / 0.1) for i in (0, 2))
        for i in range(3):
            positive = math.exp(cosine(q, bank[i, 0]) / 0.1)
            losses.append(-math.log(positive / (positive + negative)))
    assert losses, "the test needs agreed foreground"
    close(terms["contrast"], 0.5 * sum(losses) / len(losses))


@ENCODINGS
def test_fedmix(bench, output):
    x = bench("fedmix", output=output, agreement=0.0)
    x.begin()
    batch = x.batches.next_unlabeled()
    image = batch.views["weak"].image
    probs = [x.prob(image, x.model.first), x.prob(image, x.model.second)]
    labels = [as_bits(batch.stored["other"]), as_bits(batch.stored["pseudo"])]
    trust = as_bits(batch.stored["trust"])  # 0 where the view looks beyond the image
    inside = [all(kept) for sample in trust for kept in sample]
    counts = [sum(map(all, sample)) for sample in trust]
    assert 0 < sum(counts) < len(inside)
    classes = 1 if output == Output.EXCLUSIVE else 2
    loss = 0.0
    for prob, bits in zip(probs, labels, strict=True):
        flat = [t for sample in bits for t in sample]
        entropies = [
            cross_entropy(p, t, output)
            for (_, p), t, kept in zip(pixels(prob), flat, inside, strict=True)
            if kept
        ]
        loss += sum(entropies) / len(entropies) / classes
        dices = [soft_dice(prob, bits[i], i, output, trust[i]) for i in range(2)]
        loss += sum(d * n for d, n in zip(dices, counts, strict=True)) / sum(counts)
    close(value(x.step(None, batch)), loss)


def test_fedmix_keeps_the_cases_on_which_the_networks_agree(bench):
    x = bench("fedmix", agreement=0.5)
    x.begin()
    for case in x.data.unlabeled:
        stored = x.data.stored_maps(case)
        dices = []
        for a, b in zip(stored["pseudo"], stored["other"], strict=True):
            overlap = sum(int(i and j) for i, j in zip(a.flat, b.flat, strict=True))
            size = int(a.sum()) + int(b.sum())
            dices.append(2 * overlap / size if size else 1.0)
        assert (case in x.data.kept) == (sum(dices) / 2 >= 0.5)


def test_cbafed(bench):
    x = bench("cbafed", cap=0.9, tail=0.03)
    share = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)
    x.begin(class_share=share)
    spread = math.sqrt(sum((p - 1 / 3) ** 2 for p in share.tolist()) / 3)
    limits = [min(p * 0.3 + 0.84 - spread, 0.9) for p in share.tolist()]
    x.model.eval()
    chosen = 0
    for case in x.data.unlabeled:
        stored = x.data.stored_maps(case)
        found = torch.tensor(stored["pseudo"].reshape(2, -1).T.tolist())
        trust = stored["trust"].reshape(2, -1).T.tolist()
        for i, (_, p) in enumerate(pixels(x.prob(x.data.image(case)[None]))):
            first, second = sorted(range(3), key=lambda c: -p[c])[:2]
            keep = p[first] > limits[first]
            label = first
            if not keep and share[second] < 0.03:
                label, keep = second, True
            assert trust[i] == [int(keep)] * 2
            assert found[i].tolist() == [int(label == 1), int(label == 2)]
            chosen += keep
    assert chosen


def test_cbafed_learns_selected_pixels(bench):
    x = bench("cbafed")
    x.begin(class_share=torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64))
    batch = x.batches.next_unlabeled()
    prob = x.prob(batch.views["weak"].image)
    labels, trust = as_bits(batch.stored["pseudo"]), as_bits(batch.stored["trust"])
    total = count = 0.0
    rows = zip(
        pixels(prob),
        [t for sample in labels for t in sample],
        [t for sample in trust for t in sample],
        strict=True,
    )
    for (_, p), bits, kept in rows:
        if all(kept):
            total, count = total + cross_entropy(p, bits, Output.EXCLUSIVE), count + 1
    assert count
    close(value(x.step(None, batch)), total / count)


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()
