"""Tasks, keys and batches for the tests of guidance."""

from __future__ import annotations

import torch
from tiny_federations import TINY

from fedssl.methods import load_config
from fedssl.types import LabeledBatch, Output, Task

FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.NESTED, 3)

VOLUMES = Task("v", ("background", "prostate"), "3d", Output.EXCLUSIVE, 1)


def configured(**keys):
    flat = {**TINY, "batch-size": 4, "method": "denoise", "quality.guide": True}
    flat |= {"quality.width": 4, "quality.dropout": 0.0}
    return load_config({**flat, **{k.replace("__", "."): v for k, v in keys.items()}})


def labeled_batch(task=FUNDUS, batch=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    space = (32, 32) if task.mode == "2d" else (8, 32, 32)
    label = torch.zeros((batch, *space), dtype=torch.int64)
    for i in range(batch):
        label[i, ..., 6 + i : 22, 5:20] = 1
    image = torch.randn((batch, task.channels, *space), generator=rng)
    return LabeledBatch(image, label, torch.arange(batch))
