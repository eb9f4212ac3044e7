"""Batches, networks and rules for the tests of `mutual`."""

from __future__ import annotations

import torch
from tiny_federations import TINY

from fedssl.methods import load_config
from fedssl.methods.base import ServerSetup
from fedssl.methods.mutual import MutualRule
from fedssl.types import (
    LabeledBatch,
    Output,
    Role,
    SiteInfo,
    Task,
    UnlabeledBatch,
    View,
)

FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.EXCLUSIVE, 3)


def configured(**keys):
    flat = {**TINY, "method": "mutual"}
    return load_config({**flat, **{k.replace("__", "."): v for k, v in keys.items()}})


def labeled_batch(count=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn((count, 3, 16, 16), generator=rng)
    label = torch.randint(3, (count, 16, 16), generator=rng)
    return LabeledBatch(image, label, torch.arange(count))


def unlabeled_batch(count=2, seed=2):
    image = torch.randn((count, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    views = {"weak": View(image, torch.zeros(0)), "strong": View(-image, torch.zeros(0))}
    return UnlabeledBatch(views, {}, torch.arange(count))


def always_background(model):
    """Let every decoder see background everywhere, the second a little less clearly."""
    with torch.no_grad():
        for index, decoder in enumerate(model.decoders):
            decoder.head.weight.zero_()
            decoder.head.bias.copy_(torch.tensor([5.0 - index, 0.0, 0.0]))


def server_rule(roles=("labeled",), **keys):
    run = configured(**{k.replace("__", "-"): v for k, v in keys.items()})
    sites = [(f"s{i}", Role(role)) for i, role in enumerate(roles)]
    roster = {name: SiteInfo(name, role, 6, 2) for name, role in sites}
    return MutualRule(ServerSetup(run.method_config, run, FUNDUS, roster, {}))
