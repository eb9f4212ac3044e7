"""The training loop, with a network of four numbers and losses that are known by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedssl.config import MethodConfig, RunConfig
from fedssl.engine import SiteRuntime, StageResult, load_weights, pick_device, run_stage
from fedssl.errors import FederationError, TrainingError
from fedssl.functional.averaging import cpu_copy
from fedssl.memory import FileMemory
from fedssl.methods import METHODS
from fedssl.methods.base import LocalObjective, LocalSetup, Payload
from fedssl.models import SegmentationModel
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Role,
    SegOutput,
    Task,
    Term,
    UnlabeledBatch,
)

TASK = Task("t", ("background", "tumor"))
CPU = torch.device("cpu")
Step = Callable[["Scripted"], Losses]


class Numbers(SegmentationModel):
    """Three parameters in three parts, and a counter."""

    feature_channels, stride = 1, 1

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.head = nn.Parameter(torch.tensor([3.0]))
        self.own = nn.Parameter(torch.tensor([4.0]))
        self.register_buffer("count", torch.tensor(0))

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        return [x]

    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        return SegOutput(encoded[0], encoded[0])


class Scripted(LocalObjective):
    """Does what the test says, and remembers what it was given."""

    def __init__(self, setup: LocalSetup, step: Step) -> None:
        self.setup = setup
        self.model: Numbers = setup.model  # type: ignore[assignment]
        self.step = step
        self.seen: list[Any] = []
        self.begun_in_training_mode = True

    def begin(self, download: Download, data: Any) -> None:
        self.begun_in_training_mode = self.model.training

    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        self.seen.append((labeled is not None, unlabeled is not None))
        assert self.model.training
        return self.step(self)

    def after_step(self) -> None:
        self.model.count += 1


@dataclass
class Batches:
    """As many batches as are asked for; their content does not matter here."""

    def next_labeled(self) -> LabeledBatch:
        return LabeledBatch(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2).long(), torch.zeros(1))

    def next_unlabeled(self) -> UnlabeledBatch:
        return UnlabeledBatch({}, {}, torch.zeros(1))


@dataclass
class Data:
    kept: Sequence[int] = (0,)


@dataclass
class Bench:
    """One site in a folder; runs stages and keeps the objectives."""

    folder: Path
    role: Role = Role.LABELED
    data: Data = field(default_factory=Data)
    objectives: list[Scripted] = field(default_factory=list)
    method_changes: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        step: Step,
        *,
        round_: int = 0,
        trains: tuple[str, ...] = ("body", "head"),
        weights: Arrays | None = None,
        name: str = "site",
        **keys: Any,
    ) -> StageResult:
        def make(setup: LocalSetup) -> Scripted:
            self.objectives.append(Scripted(setup, step))
            return self.objectives[-1]

        method = replace(METHODS["fedavg"], **{**self._roles(make), **self.method_changes})
        model = Numbers()
        run = RunConfig(**{"local_steps": 2, "optimizer": "sgd", "momentum": 0.0, "lr": 0.1} | keys)
        runtime = SiteRuntime(
            name=name,
            role=self.role,
            run=run,
            task=TASK,
            method=method,
            model=model,
            data=self.data,  # type: ignore[arg-type]
            batches=Batches(),
            memory=FileMemory(self.folder, round_, round_),
            device=CPU,
        )
        start = {"body": model.body.detach().clone(), "head": model.head.detach().clone()}
        sent = Download("r", round_, "train", name, round_, {**start, **(weights or {})})
        return run_stage(runtime, replace(sent, trains=trains))

    @staticmethod
    def _roles(make: Callable[[LocalSetup], Scripted]) -> dict[str, Any]:
        parts = {"body": ["body"], "head": ["head"], "private": ["own"], "shared": ["count"]}
        return {
            "config": MethodConfig,
            "labeled": make,
            "unlabeled": make,
            "mixed": make,
            "parts": lambda model: parts,
            "payload": lambda run, task, weights: Payload(),
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def sum_of_all(objective: Scripted) -> Losses:
    """Gradient 1 for every number that is trained."""
    model = objective.model
    return Losses(model.body.sum() + model.head.sum() + model.own.sum())


# --- steps ---------------------------------------------------------------------------------------


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


# --- parts ---------------------------------------------------------------------------------------


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


# --- the optimizer between rounds ----------------------------------------------------------------


def crooked(objective: Scripted) -> Losses:
    """A loss whose gradient depends on the numbers, so that states matter."""
    model = objective.model
    return Losses((model.body**2).sum() + (model.head**3).sum() + model.own.sum() ** 2)


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_two_rounds_with_a_kept_state_are_one_long_round(tmp_path: Path, keys: dict[str, Any]):
    halves, whole = Bench(tmp_path / "halves"), Bench(tmp_path / "whole")
    first = halves.run(crooked, local_steps=3, **keys)
    second = halves.run(crooked, local_steps=3, round_=1, weights=first.weights, **keys)
    once = whole.run(crooked, local_steps=6, **keys)
    for name, value in once.weights.items():
        assert torch.equal(second.weights[name], value), name


def test_a_reset_optimizer_begins_anew(tmp_path: Path):
    kept, reset = Bench(tmp_path / "kept"), Bench(tmp_path / "reset")
    keys = {"optimizer": "adam", "weights": {"head": torch.tensor([2.0])}}
    for bench in (kept, reset):
        bench.run(crooked, optimizer="adam", reset_optimizer=bench is reset)
    fresh = Bench(tmp_path / "fresh").run(crooked, round_=1, **keys)
    old = kept.run(crooked, round_=1, **keys)
    # the private number has moved at both, so only the others are compared
    new = reset.run(crooked, round_=1, reset_optimizer=True, **keys)
    assert torch.equal(new.weights["head"], fresh.weights["head"])
    assert not torch.equal(old.weights["head"], fresh.weights["head"])
    assert not [p for p in reset.folder.iterdir() if "optimizer" in p.name]


def test_each_parameter_gets_its_own_state_back_whatever_else_is_trained(tmp_path: Path):
    bench, alone = Bench(tmp_path / "both"), Bench(tmp_path / "alone")
    bench.run(crooked, optimizer="adam")
    alone.run(crooked, optimizer="adam", trains=("head",))
    now = bench.run(crooked, optimizer="adam", trains=("head",), round_=1)
    expected = alone.run(crooked, optimizer="adam", trains=("head",), round_=1)
    assert torch.equal(now.weights["head"], expected.weights["head"])


def test_the_poly_schedule_runs_over_the_whole_run(bench: Bench):
    keys = {"lr": 1.0, "lr_schedule": "poly", "rounds": 2}
    first = bench.run(sum_of_all, **keys)
    second = bench.run(sum_of_all, round_=1, **keys)
    rates = [(1 - step / 4) ** 0.9 for step in range(4)]
    assert 3 - first.weights["head"].item() == pytest.approx(sum(rates[:2]))
    assert 3 - second.weights["head"].item() == pytest.approx(sum(rates[2:]))


# --- what an objective is given ------------------------------------------------------------------


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
