"""The denoiser against DPL's steps, pixel by pixel, on the same stochastic passes.

Chen et al., MICCAI 2021: mean and spread over passes, threshold, prototypes of reliable pixels,
nearest prototype, trust where the pixel is reliable and the prototypes agree, masked cross entropy.
"""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
import torch
from literal_pixels import ENCODINGS, Bench, close, cross_entropy, pixels, value
from torch import nn

from fedssl.functional.losses import reduce_term
from fedssl.methods.relabel import FEATURE_FACTOR, Relabeler
from fedssl.models.parts import stochastic
from fedssl.types import Output

PASSES, SEED, GAMMA, SIZE = 4, 7, 0.55, 16
CELLS = SIZE // FEATURE_FACTOR


def squash(z, output):
    """Return foreground probabilities of one pixel's logits."""
    if output == Output.NESTED:
        return [1 / (1 + math.exp(-v)) for v in z]
    top = [math.exp(v) for v in z]
    return [v / sum(top) for v in top[1:]]


def passes_of(model, image):
    """Return logits [K][pixel][channel] and the mean features [D, CELLS, CELLS] of the passes."""
    logits, features = [], []
    with torch.no_grad(), stochastic(model):
        for out in model.passes(image[None], PASSES):
            logits.append([z for _, z in pixels(out.logits)])
            features.append(out.features[0])
    mean = torch.stack(features).double().mean(0)
    side = FEATURE_FACTOR
    cells = [
        [mean[:, y : y + side, x : x + side].mean((1, 2)) for x in range(0, SIZE, side)]
        for y in range(0, SIZE, side)
    ]
    return logits, cells


def statistics_of(logits, output):
    """Return p and u [F][SIZE][SIZE]: means of probabilities, spreads of softened ones."""
    classes = len(squash(logits[0][0], output))
    p, u = ([[[0.0] * SIZE for _ in range(SIZE)] for _ in range(classes)] for _ in range(2))
    for v in range(SIZE * SIZE):
        probs = [squash(z[v], output) for z in logits]
        soft = [squash([value / 2 for value in z[v]], output) for z in logits]
        for f in range(classes):
            p[f][v // SIZE][v % SIZE] = statistics.mean(x[f] for x in probs)
            u[f][v // SIZE][v % SIZE] = statistics.stdev(x[f] for x in soft)
    return p, u


def label_map(p, output):
    """Return y [F][SIZE][SIZE]: above gamma, and of exclusive classes the likeliest."""
    classes = len(p)
    return [
        [
            [
                int(
                    p[f][y][x] > GAMMA
                    and (output == Output.NESTED or p[f][y][x] == max(q[y][x] for q in p))
                )
                for x in range(SIZE)
            ]
            for y in range(SIZE)
        ]
        for f in range(classes)
    ]


def shrunk(values):
    """Return a map [SIZE][SIZE] at [CELLS][CELLS], bilinearly, corners aligned."""
    step = (SIZE - 1) / (CELLS - 1)
    result = [[0.0] * CELLS for _ in range(CELLS)]
    for i in range(CELLS):
        for j in range(CELLS):
            y, x = min(int(i * step), SIZE - 2), min(int(j * step), SIZE - 2)
            dy, dx = i * step - y, j * step - x
            result[i][j] = (1 - dy) * ((1 - dx) * values[y][x] + dx * values[y][x + 1]) + dy * (
                (1 - dx) * values[y + 1][x] + dx * values[y + 1][x + 1]
            )
    return result


def prototype_maps(found, f, eta):
    """Return 1 per case and cell where the object's prototype is nearer; None without both."""
    sums, weights = [0.0, 0.0], [0.0, 0.0]
    for cells, p, u, y in found:
        small_p, small_u = shrunk(p[f]), shrunk(u[f])
        for i in range(CELLS):
            for j in range(CELLS):
                if small_u[i][j] < eta:
                    side = y[f][i * FEATURE_FACTOR][j * FEATURE_FACTOR]
                    w = small_p[i][j] if side else 1 - small_p[i][j]
                    sums[side] = sums[side] + w * cells[i][j]
                    weights[side] += w
    if not all(weights):
        return None
    far, near = (s / w for s, w in zip(sums, weights, strict=True))
    return [
        [[int(((z - near) ** 2).sum() < ((z - far) ** 2).sum()) for z in row] for row in cells]
        for cells, *_ in found
    ]


def trusted(u, y, agreed, eta):
    """Return m [SIZE][SIZE] of one class."""
    return [
        [
            int(
                u[r][c] < eta
                and (agreed is None or agreed[r // FEATURE_FACTOR][c // FEATURE_FACTOR] == y[r][c])
            )
            for c in range(SIZE)
        ]
        for r in range(SIZE)
    ]


@pytest.fixture
def labeled_site(bench, request):
    """A bench whose network has dropout, and everything that the loops find on its images."""
    x: Bench = bench("denoise", output=request.param, passes=PASSES, gamma=GAMMA)
    for module in x.model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.5
    with torch.no_grad():  # enough foreground for both prototypes
        x.model.head.weight *= 4
    torch.manual_seed(SEED)
    found = []
    for case in x.data.unlabeled:
        logits, cells = passes_of(x.model, x.data.image(case))
        p, u = statistics_of(logits, request.param)
        found.append((cells, p, u, label_map(p, request.param)))
    spread = sorted(v for _, _, u, _ in found for plane in u for row in plane for v in row)
    middle = spread[len(spread) // 3 : 2 * len(spread) // 3]
    _, eta = max((b - a, (a + b) / 2) for a, b in pairwise(middle))  # no pixel near it
    torch.manual_seed(SEED)
    config = x.run.method_config.model_copy(update={"eta": eta})
    Relabeler(config, x.setup, []).relabel(x.data, None)
    return x, found, eta


BOTH = pytest.mark.parametrize("labeled_site", list(Output), indirect=True)


@BOTH
def test_labels_and_trust_are_those_of_the_published_steps(labeled_site):
    x, found, eta = labeled_site
    classes, nested = len(found[0][1]), x.task.output == Output.NESTED
    agreed = [prototype_maps(found, f, eta) for f in range(classes)]
    assert any(a is not None for a in agreed), "the test needs a class with both prototypes"
    kept = rejected = 0
    for n, case in enumerate(x.data.unlabeled):
        _, _, u, y = found[n]
        stored = x.data.stored_maps(case)
        for f in range(classes):
            of_case = None if agreed[f] is None else agreed[f][n]
            mask, label = trusted(u[f], y[f], of_case, eta), y[f]
            if nested and f:  # a cup outside the disc is taken back, and not trusted
                outside = [
                    [int(a and not b) for a, b in zip(*rows, strict=True)]
                    for rows in zip(y[f], y[f - 1], strict=True)
                ]
                label = [
                    [a - o for a, o in zip(*rows, strict=True)]
                    for rows in zip(label, outside, strict=True)
                ]
                mask = trusted(u[f], label, of_case, eta)
                mask = [
                    [m * (1 - o) for m, o in zip(*rows, strict=True)]
                    for rows in zip(mask, outside, strict=True)
                ]
            assert stored["pseudo"][f].tolist() == label
            assert stored["trust"][f].tolist() == mask
            kept += sum(map(sum, mask))
            rejected += SIZE * SIZE - sum(map(sum, mask))
    assert kept
    assert rejected


@ENCODINGS
def test_the_loss_is_the_mean_cross_entropy_over_trusted_pixels(bench, output):
    x = bench("denoise", output=output, view="weak")
    generator = torch.Generator().manual_seed(3)
    for case in x.data.unlabeled:
        label = torch.randint(0, 3, (SIZE, SIZE), generator=generator)
        pseudo = torch.stack([label >= 1, label == 2]) if output == Output.NESTED else None
        pseudo = torch.stack([label == 1, label == 2]) if pseudo is None else pseudo
        trust = torch.rand(2, SIZE, SIZE, generator=generator) < 0.7
        x.data.store(case, pseudo=pseudo.to(torch.uint8), trust=trust.to(torch.uint8))
    x.model.train()
    batch = x.batches.next_unlabeled()
    prob = x.prob(batch.views["weak"].image)
    pseudo, trust = pixels(batch.stored["pseudo"]), pixels(batch.stored["trust"])
    rows = zip(pixels(prob), pseudo, trust, strict=True)
    total = count = 0.0
    for (_, p), (_, bits), (_, keep) in rows:
        if output == Output.EXCLUSIVE and all(keep):
            total, count = total + cross_entropy(p, bits, output), count + 1
        elif output == Output.NESTED:
            total -= sum(
                math.log(v if bit else 1 - v) for v, bit, k in zip(p, bits, keep, strict=True) if k
            )
            count += sum(keep)
    losses = x.step(None, batch)
    close(value(losses), total / count)
    assert [reduce_term(t).requires_grad for t in losses.unsupervised] == [True]
