"""What an objective of a guided method is given."""

from __future__ import annotations

import pytest
import torch
from guided import FUNDUS, configured

from fedssl.memory import FileMemory
from fedssl.methods import method_of
from fedssl.methods.base import LocalSetup
from fedssl.seeds import generators
from fedssl.types import Role


@pytest.fixture
def guided_setup(tmp_path):
    def make(task=FUNDUS, role=Role.UNLABELED, **keys):
        run = configured(**{f"quality__{k.replace('_', '-')}": v for k, v in keys.items()})
        torch.manual_seed(0)
        return LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=method_of(run).build_model(run, task),
            memory=FileMemory(tmp_path / "memory", 0, 5),
            rng=generators(0, "test"),
            device=torch.device("cpu"),
            role=role,
        )

    return make
