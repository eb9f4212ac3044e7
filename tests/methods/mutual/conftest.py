"""An objective of `mutual` that has begun a stage."""

from __future__ import annotations

import pytest
import torch
from mutual_steps import FUNDUS, configured

from fedssl.memory import FileMemory
from fedssl.methods.base import LocalSetup
from fedssl.methods.mutual import METHOD, MutualLearning
from fedssl.seeds import generators
from fedssl.types import (
    Download,
    Role,
)


@pytest.fixture
def learn(tmp_path):
    """Return an objective that has begun a stage, on random weights."""

    def make(role=Role.MIXED, *, step=0, ramp=100, task=FUNDUS, **keys):
        keys = {k if "__" in k or "." in k else f"mutual.{k}": v for k, v in keys.items()}
        run = configured(**{k.replace("_", "-") if "." in k else k: v for k, v in keys.items()})
        torch.manual_seed(0)
        model = METHOD.build_model(run, task).train()
        setup = LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=model,
            memory=FileMemory(tmp_path / "memory", 0, 1),
            rng=generators(0, "test"),
            device=torch.device("cpu"),
            role=role,
        )
        objective = MutualLearning(setup)
        clock = {"step": float(step), "ramp": float(ramp)}
        objective.begin(Download("run", 0, "train", "west", clock=clock), None)
        return objective

    return make
