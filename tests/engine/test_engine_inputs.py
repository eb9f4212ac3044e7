"""What an objective is given, on which device, and what leaves the stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripted_site import CPU, Bench, Data, Scripted, sum_of_all

from fedssl.engine import pick_device
from fedssl.errors import FederationError, TrainingError
from fedssl.functional.averaging import cpu_copy
from fedssl.types import (
    Losses,
    Role,
)


@pytest.mark.parametrize(
    ("role", "mixed", "kept", "given"),
    [
        (Role.LABELED, True, (0,), (True, False)),
        (Role.UNLABELED, True, (0,), (False, True)),
        (Role.UNLABELED, True, (), (False, False)),
        (Role.MIXED, True, (0,), (True, True)),
        (Role.MIXED, True, (), (True, False)),
        (Role.MIXED, False, (0,), (True, False)),
    ],
)
def test_each_role_gets_its_kind_of_batch(
    role: Role, mixed: bool, kept: tuple[int, ...], given: tuple[bool, bool], tmp_path: Path
):
    changes = {} if mixed else {"mixed": None}
    bench = Bench(tmp_path, role, Data(kept), method_changes=changes)
    bench.run(sum_of_all, local_steps=1)
    assert bench.objectives[0].seen == [given]


def test_a_role_that_the_method_does_not_train_is_refused(tmp_path: Path):
    bench = Bench(tmp_path, Role.UNLABELED, method_changes={"unlabeled": None})
    with pytest.raises(FederationError, match="has no training at unlabeled sites, but 'north'"):
        bench.run(sum_of_all, name="north")


def test_begin_finds_the_network_in_eval_mode(bench: Bench):
    bench.run(sum_of_all)
    assert bench.objectives[0].begun_in_training_mode is False


def test_dropout_is_drawn_by_seed_round_and_site_and_leaves_the_global_generator(bench: Bench):
    def step(objective: Scripted) -> Losses:
        objective.seen.append(torch.rand(3).tolist())
        return sum_of_all(objective)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    for keys in ({}, {}, {"name": "other"}, {"round_": 1}, {"seed": 1}):
        bench.run(step, local_steps=1, **keys)
    drawn = [o.seen[-1] for o in bench.objectives]
    assert drawn[0] == drawn[1]
    assert len({tuple(d) for d in drawn}) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_an_error_with_a_remedy():
    assert pick_device("auto") == pick_device("cpu") == CPU
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(TrainingError, match="torch sees no CUDA device here"):
            pick_device(wanted)


def test_what_is_returned_shares_no_memory_with_the_model(bench: Bench):
    result = bench.run(sum_of_all)
    with torch.no_grad():
        bench.objectives[0].model.head.zero_()
    assert result.weights["head"].item() != 0
    assert cpu_copy(result.weights)["head"].device == CPU
