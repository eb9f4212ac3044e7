"""A method's objective on a batch of a synthetic site, and formulas as loops over pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_federations import TINY, write_federation

from fedssl.data.batches import Batches
from fedssl.federation import load_federation
from fedssl.functional.denoising import largest_component
from fedssl.functional.losses import reduce_term
from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import LocalSetup
from fedssl.seeds import generators, seeded
from fedssl.site import Site
from fedssl.types import Download, Losses, Output, Role

SIZE = 16
CLOCK = {"phase": 2.0, "since": 1.0, "ramp": 4.0, "after": 6.0}
SITES = {"north": "labeled", "south": "mixed", "west": "unlabeled"}
ENCODINGS = pytest.mark.parametrize("output", [Output.NESTED, Output.EXCLUSIVE])


class Bench:
    """A method's objective at one site, at the second round of phase 2, and a batch for it."""

    def __init__(self, folder, cache, method, role=Role.UNLABELED, output=Output.NESTED, **keys):
        file = write_federation(folder, SITES)
        own = {f"{method}.{k.replace('_', '-')}": v for k, v in keys.items()}
        still = {"model.dropout-bottleneck": 0.0, "model.dropout-head": 0.0}
        flat = {**TINY, "federation": str(file), "cache-dir": str(cache)}
        flat |= {"image-size": str(SIZE)}
        self.run = load_config({**flat, **still, "method": method, **own})
        federation, row = load_federation(self.run), METHODS[method]
        name = next(site for site, wanted in SITES.items() if wanted == role)
        site = Site(federation.site(name), federation.task, self.run, folder / "state")
        self.task = row.task(replace(federation.task, output=output))
        with seeded(5, torch.device("cpu")):
            self.model = row.build_model(self.run, self.task)
        self.setup = LocalSetup(
            config=self.run.method_config,
            run=self.run,
            task=self.task,
            model=self.model,
            memory=FileMemory(folder / "memory", 3, 5),
            rng=generators(0, "objective"),
            device=torch.device("cpu"),
            role=role,
        )
        factories = {Role.UNLABELED: row.unlabeled, Role.MIXED: row.mixed}
        self.objective = factories[role](self.setup)
        self.data = site.data
        rng = generators(0, "batches")
        self.batches = Batches(site.data, self.run, self.task, rng.numpy, rng.torch)

    def begin(self, **knowledge):
        clock = {**CLOCK}
        download = Download("run", 3, "train", "west", 5, knowledge=knowledge, clock=clock)
        self.objective.begin(download, self.data)
        self.model.train()

    def step(self, labeled=None, unlabeled=None) -> Losses:
        return self.objective.training_step(labeled, unlabeled)

    def prob(self, image, network=None):
        logits = (network or self.model)(image).logits
        return self.activate(logits)

    def activate(self, logits):
        exclusive = self.task.output == Output.EXCLUSIVE
        return torch.softmax(logits, 1) if exclusive else torch.sigmoid(logits)


def value(losses):
    return sum(reduce_term(t) for t in losses.unsupervised).item()


def pixels(tensor):
    """Yield (sample, list of channel values) of every pixel of [B, C, *S]."""
    flat = tensor.detach().flatten(2)
    for b in range(flat.shape[0]):
        for column in flat[b].T.tolist():
            yield b, column


def label_of(p, output):
    """Return a pixel's label as foreground bits, from the network's probabilities."""
    if output == Output.EXCLUSIVE:
        best = max(range(len(p)), key=lambda c: p[c])
        return [int(best == c) for c in range(1, len(p))]
    bits, inside = [], 1
    for x in p:
        inside &= int(x > 0.5)
        bits.append(inside)
    return bits


def cross_entropy(p, bits, output):
    """Return a pixel's cross entropy, summed over classes if nested."""
    if output == Output.EXCLUSIVE:
        c = bits.index(1) + 1 if 1 in bits else 0
        return -math.log(p[c])
    return -sum(math.log(x if bit else 1 - x) for x, bit in zip(p, bits, strict=True))


def mean_square(prob, target):
    terms = [
        (x - y) ** 2
        for (_, p), (_, q) in zip(pixels(prob), pixels(target), strict=True)
        for x, y in zip(p, q, strict=True)
    ]
    return sum(terms) / len(terms)


def soft_dice(prob, bits, sample, output, keep=None):
    """Return 1 - Dice of one sample, mean over classes; smooth 1e-5."""
    first = 1 if output == Output.EXCLUSIVE else 0
    rows = [p for b, p in pixels(prob) if b == sample]
    losses = []
    for f in range(len(bits[0])):
        overlap = size = 0.0
        for i, p in enumerate(rows):
            if keep is None or keep[i][f]:
                overlap += p[f + first] * bits[i][f]
                size += p[f + first] + bits[i][f]
        losses.append(1 - (2 * overlap + 1e-5) / (size + 1e-5))
    return sum(losses) / len(losses)


def labels_of(prob, output):
    return [[label_of(p, output) for b, p in pixels(prob) if b == i] for i in range(len(prob))]


def close(a, b):
    assert a == pytest.approx(b, rel=2e-4, abs=1e-7)


def literal_region(prob, bits, region, output):
    """(Dice + CE) / 2 of each sample over the pixels where region is set, averaged."""
    losses = []
    for b in range(len(prob)):
        keep = [[r] * len(bits[b][0]) for r in region]
        dice = soft_dice(prob, bits[b], b, output, keep)
        rows = [p for i, p in pixels(prob) if i == b]
        chosen = [
            cross_entropy(p, t, output) for p, t, r in zip(rows, bits[b], region, strict=True) if r
        ]
        classes = 1 if output == Output.EXCLUSIVE else len(bits[b][0])
        losses.append((dice + sum(chosen) / len(chosen) / classes) / 2)
    return sum(losses) / len(losses)


def drawn_box(seed_of="objective"):
    """The box that an objective draws first: 2/3 of each side of 16 pixels."""
    rng, side = generators(0, seed_of).torch, int(SIZE * 2 / 3)
    top, left = (int(torch.randint(0, SIZE - side + 1, (1,), generator=rng)) for _ in range(2))
    box = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    box[top : top + side, left : left + side] = True
    return box


def largest_labels(prob, output):
    """Labels whose classes keep their largest component, nested again where they were."""
    bits = torch.tensor(labels_of(prob, output)).transpose(1, 2)
    masks = bits.reshape(len(prob), -1, SIZE, SIZE).to(torch.uint8).numpy()
    kept = [[torch.from_numpy(largest_component(m)) for m in sample] for sample in masks]
    stacked = torch.stack([torch.stack(sample) for sample in kept])
    if output == Output.NESTED:
        stacked[:, 1] *= stacked[:, 0]
    return stacked


def as_bits(mask):
    return [m.flatten(1).T.tolist() for m in mask]
