"""The task, the keys and the surroundings of the tests of baselines."""

from __future__ import annotations

import torch
from tiny_federations import TINY

from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import LocalSetup
from fedssl.seeds import generators
from fedssl.types import (
    Output,
    Task,
)

TASK = Task("t", ("background", "disc", "cup"), "2d", Output.NESTED, 3)


def configured(method, **keys):
    own = {f"{method}.{k.replace('_', '-')}": v for k, v in keys.items()}
    return load_config({**TINY, "rounds": 12, "method": method, **own})


def local(tmp_path, method, role, **keys):
    run = configured(method, **keys)
    torch.manual_seed(0)
    return LocalSetup(
        config=run.method_config,
        run=run,
        task=TASK,
        model=METHODS[method].build_model(run, TASK),
        memory=FileMemory(tmp_path / "memory", 4, 7),
        rng=generators(0, "t"),
        device=torch.device("cpu"),
        role=role,
    )
