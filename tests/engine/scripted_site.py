"""A site whose network is four numbers and whose losses are known by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedssl.config import MethodConfig, RunConfig
from fedssl.engine import SiteRuntime, StageResult, run_stage
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
        self.model: Numbers = setup.model  # type: ignore[assignment]  # this method builds Numbers
        self.step = step
        self.seen: list[Any] = []
        self.factor = 1.0
        self.begun_in_training_mode = True

    def begin(self, download: Download, data: Any) -> None:
        self.begun_in_training_mode = self.model.training

    def lr_factor(self) -> float:
        return self.factor

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
    lr_factor: float = 1.0

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
            self.objectives[-1].factor = self.lr_factor
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
            data=self.data,  # type: ignore[arg-type]  # a scripted one
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


def sum_of_all(objective: Scripted) -> Losses:
    """Gradient 1 for every number that is trained."""
    model = objective.model
    return Losses(model.body.sum() + model.head.sum() + model.own.sum())


def crooked(objective: Scripted) -> Losses:
    """A loss whose gradient depends on the numbers, so that states matter."""
    model = objective.model
    return Losses((model.body**2).sum() + (model.head**3).sum() + model.own.sum() ** 2)
