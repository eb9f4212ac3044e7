"""Tests of `fedssl.methods.whole_case`."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import TASK, configured
from torch import nn

from fedssl.memory import FileMemory
from fedssl.methods import METHODS
from fedssl.methods.base import LocalSetup
from fedssl.methods.whole_case import predict_whole
from fedssl.seeds import generators
from fedssl.types import Role


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_maps_are_computed_in_the_run_s_precision_and_returned_in_float32(tmp_path, precision):
    run = configured("mean_teacher").model_copy(update={"precision": precision})
    setup = LocalSetup(
        config=run.method_config,
        run=run,
        task=TASK,
        model=METHODS["mean_teacher"].build_model(run, TASK),
        memory=FileMemory(tmp_path, 0, 0),
        rng=generators(0, "t"),
        device=torch.device("cpu"),
        role=Role.UNLABELED,
    )
    first, seen = nn.Conv2d(3, 2, 1), []

    def predictor(x):
        seen.append(first(x))
        return seen[-1], x

    maps = predict_whole(setup, predictor, torch.rand(3, 32, 32))
    assert {m.dtype for m in maps} == {torch.float32}
    assert {y.dtype for y in seen} == {torch.bfloat16 if precision == "bf16" else torch.float32}
