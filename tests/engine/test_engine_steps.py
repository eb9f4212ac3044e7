"""The steps of a stage and the parts that it trains, with losses known by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scripted_site import Bench, Numbers, Scripted, sum_of_all

from fedssl.engine import load_weights
from fedssl.errors import FederationError, TrainingError
from fedssl.memory import FileMemory
from fedssl.types import (
    Losses,
    Term,
)


def test_sgd_moves_every_trained_number_by_rate_times_steps(bench: Bench):
    result = bench.run(sum_of_all)
    torch.testing.assert_close(result.weights["body"], torch.tensor([0.8, 1.8]))
    torch.testing.assert_close(result.weights["head"], torch.tensor([2.8]))
    # the losses of the two steps were 10 and 9.6
    assert result.metrics == {
        "loss/supervised": pytest.approx(9.8),
        "loss": pytest.approx(9.8),
        "steps_skipped": 0.0,
    }


def test_a_skipped_batch_takes_no_step_and_is_counted(bench: Bench):
    calls = iter([Losses(), None, Losses()])

    def step(objective: Scripted) -> Losses:
        return next(calls) or sum_of_all(objective)

    result = bench.run(step, local_steps=3)
    assert result.metrics["steps_skipped"] == 2.0
    assert bench.objectives[0].model.count == 1  # `after_step` follows optimizer steps only
    torch.testing.assert_close(result.weights["head"], torch.tensor([2.9]))


def test_a_stage_of_skipped_batches_changes_nothing_even_with_momentum(bench: Bench):
    bench.run(sum_of_all, momentum=0.9)
    result = bench.run(lambda objective: Losses(), round_=1, momentum=0.9)
    assert result.weights["body"].tolist() == [1.0, 2.0]
    assert result.metrics == {"steps_skipped": 2.0}


def test_a_loss_that_is_not_finite_names_site_and_round_and_leaves_no_state(bench: Bench):
    def step(objective: Scripted) -> Losses:
        return Losses(objective.model.head.sum() * float("nan"))

    with pytest.raises(TrainingError, match=r"site 'north' is nan in round 4, stage 'train'"):
        bench.run(step, round_=3, name="north", optimizer="adam")
    assert not list(bench.folder.iterdir())


def test_a_gradient_that_overflows_in_the_last_step_leaves_no_state(bench: Bench):
    def step(objective: Scripted) -> Losses:
        return Losses((objective.model.head - 3).abs().sqrt().sum())  # finite, infinite slope

    bench.run(step, local_steps=1, optimizer="adam")
    assert not [p for p in bench.folder.iterdir() if "optimizer" in p.name]


def test_terms_are_summed_logged_by_name_and_weighed_by_their_scale(bench: Bench):
    def step(objective: Scripted) -> Losses:
        numerator = torch.stack([objective.model.head.sum(), objective.model.head.sum()])
        term = Term("pseudo", numerator, torch.tensor([1.0, 3.0]), scale=0.5)
        empty = Term("empty", 0 * numerator, torch.zeros(2))
        return Losses(objective.model.body.sum(), [term, empty])

    result = bench.run(step, local_steps=1)
    # 0.5 * (3 + 3) / (1 + 3) = 0.75, and 1 + 2 = 3
    assert result.metrics["loss/pseudo"] == pytest.approx(0.75)
    assert result.metrics["loss/empty"] == 0.0
    assert result.metrics["loss"] == pytest.approx(3.75)
    torch.testing.assert_close(result.weights["head"], torch.tensor([3 - 0.1 * 0.25]))


def test_gradients_are_clipped_over_all_trained_parameters_together(bench: Bench):
    result = bench.run(sum_of_all, local_steps=1, clip_norm=1.0)
    # four gradients of 1 have the norm 2, so each becomes 1/2
    torch.testing.assert_close(result.weights["head"], torch.tensor([2.95]), atol=1e-5, rtol=0)


def test_bf16_computes_losses_under_autocast(bench: Bench):
    def step(objective: Scripted) -> Losses:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        objective.seen.append(product.dtype)
        return sum_of_all(objective)

    bench.run(step, local_steps=1, precision="bf16")
    bench.run(step, local_steps=1, precision="fp32")
    assert [o.seen[-1] for o in bench.objectives] == [torch.bfloat16, torch.float32]


def test_what_a_stage_does_not_train_stays_and_gets_no_gradient(bench: Bench):
    gradients: list[bool] = []

    def step(objective: Scripted) -> Losses:
        gradients.append(objective.model.body.requires_grad)
        return sum_of_all(objective)

    result = bench.run(step, trains=("head",))
    model = bench.objectives[0].model
    assert gradients == [False, False]
    assert model.body.grad is None
    assert model.body.tolist() == [1.0, 2.0]
    assert result.weights.keys() == {"head"}


def test_a_stage_that_trains_nothing_takes_no_step_and_returns_no_weights(bench: Bench):
    result = bench.run(sum_of_all, trains=())
    assert bench.objectives[0].seen == []
    assert (result.weights, result.knowledge, result.metrics) == ({}, {}, {})


def test_private_numbers_are_trained_and_stay_at_the_site(bench: Bench, tmp_path: Path):
    result = bench.run(sum_of_all)
    assert "own" not in result.weights
    bench.run(sum_of_all, round_=1)
    own = FileMemory(bench.folder, 2, 2).load("private")
    assert own is not None
    torch.testing.assert_close(own["own"], torch.tensor([4 - 4 * 0.1]))
    elsewhere = Bench(tmp_path / "elsewhere")
    elsewhere.run(sum_of_all)
    torch.testing.assert_close(elsewhere.objectives[0].model.own.detach(), torch.tensor([3.8]))


def test_weights_that_do_not_fit_are_refused_with_both_shapes(bench: Bench):
    with pytest.raises(FederationError, match=r"'body' of shape \(3,\).* here has \(2,\)"):
        bench.run(sum_of_all, weights={"body": torch.zeros(3)})
    with pytest.raises(FederationError, match=r"'tail' .* here has no such entry"):
        load_weights(Numbers(), {"tail": torch.zeros(1)})
