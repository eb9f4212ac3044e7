"""The verbs of fedssl: what a method does at a site and at the coordinator.

A method is one file with both halves: a `Config`, a `LocalObjective` per role, a `ServerRule`, and
a `Method` that ties them together. A class is either abstract (here) or final (a method's);
optional hooks have an empty body, so nothing ever calls `super()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedssl.config import MethodConfig, RunConfig
from fedssl.functional.losses import supervised_loss
from fedssl.methods.payload import ArraySpec, Payload
from fedssl.seeds import Rng
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Output,
    Role,
    SiteInfo,
    Stage,
    Task,
    UnlabeledBatch,
    Upload,
)

if TYPE_CHECKING:
    from fedssl.models import SegmentationModel

__all__ = [
    "ArraySpec",
    "LocalObjective",
    "LocalSetup",
    "Memory",
    "Method",
    "Payload",
    "Recipe",
    "ServerRule",
    "ServerSetup",
    "TrainingData",
    "as_exclusive",
    "as_given",
]


class Memory(Protocol):
    """Named arrays at the site that survive rounds, as files under its state directory.

    `load` sees what was saved before the current stage, so a repeated stage repeats exactly.
    """

    def load(self, name: str) -> Arrays | None:
        """Return what was last saved under `name` before this stage, or None."""

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep `arrays` under `name`, atomically."""


class TrainingData(Protocol):
    """A site's training cases, as an objective sees them. Masks of unlabeled cases do not exist."""

    @property
    def labeled(self) -> Sequence[int]:
        """Positions of the cases whose mask is used in training."""

    @property
    def unlabeled(self) -> Sequence[int]:
        """Positions of the cases without a mask."""

    @property
    def kept(self) -> Sequence[int]:
        """Unlabeled cases that batches are drawn from; if empty, there are no such batches."""

    @property
    def num_labeled(self) -> int:
        """Training samples (images, slices or volumes) with a mask that is used."""

    def subject(self, case: int) -> int:
        """Return a number that cases of one subject share; it says nothing else."""

    def image(self, case: int) -> Tensor:
        """Return one prepared image [C, *S] float32 on the training device, not augmented."""

    def label(self, case: int) -> Tensor:
        """Return the mask [*S] int64 of a labeled case; raise for any other case."""

    def store(self, case: int, **maps: Tensor) -> None:
        """Keep maps [M, *S] (uint8 or float16) of a case; batches carry them as `stored`."""

    def stored_maps(self, case: int) -> Mapping[str, np.ndarray]:
        """Return the maps [M, *S] stored for a case; empty if there are none."""

    def keep_only(self, cases: Sequence[int]) -> None:
        """Sample unlabeled batches from these cases only, in this stage."""


@dataclass(frozen=True, slots=True)
class LocalSetup:
    """What a local objective is built from; it lives for one stage at one site."""

    config: MethodConfig
    run: RunConfig
    task: Task
    model: SegmentationModel
    memory: Memory
    rng: Rng
    device: torch.device
    role: Role

    def supervised(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits [B, O, *S] with masks [B, *S] int64, by the run's key `loss`.

        For methods that have not published one of their own.
        """
        parts = self.run.loss.split("-")
        return supervised_loss(
            logits,
            label,
            self.task.output,
            dice_weight=float("dice" in parts),
            ce_weight=float("ce" in parts),
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one stage is trained where that is not for the run's keys to say.

    Its optimizer starts anew in every stage.

    Args:
        optimizer: over the parameters that were handed in; its learning rate stays as it is.
        steps: optimizer steps.
        clip_norm: largest gradient norm, 0 = off.
    """

    optimizer: torch.optim.Optimizer
    steps: int
    clip_norm: float = 0.0


class LocalObjective(ABC):
    """Client half of a method."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup

    def begin(self, download: Download, data: TrainingData) -> None:
        """Prepare the stage: weights are loaded; make pseudo-labels, banks, scores."""
        return None

    def recipe(self, parameters: Sequence[nn.Parameter]) -> Recipe | None:
        """Return how this stage is trained, or None: by the run's keys. Called after `begin`."""
        return None

    def lr_factor(self) -> float:
        """Return the factor of the key `lr` in this stage; where `recipe` returns None."""
        return 1.0

    @abstractmethod
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        """Return the losses of one step; at a mixed site both batches are there."""

    def after_step(self) -> None:
        """Run after each optimizer step, e.g. to move an EMA teacher."""
        return None

    def knowledge(self) -> Arrays:
        """Return what is uploaded besides weights, as `Method.payload` declares it."""
        return {}

    def metrics(self) -> Mapping[str, float]:
        """Return scalars for the log (means, counts); called once, after the last step."""
        return {}


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What a server rule is built from; it lives for the whole run."""

    config: MethodConfig
    run: RunConfig
    task: Task
    roster: Mapping[str, SiteInfo]
    parts: Mapping[str, Sequence[str]]


class ServerRule(ABC):
    """Server half of a method. Everything it keeps between rounds is in `state`."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup

    @abstractmethod
    def plan(self, round_: int) -> Sequence[Stage]:
        """Return the stages of a round (counted from 0), in order."""

    def clock(self, round_: int) -> Mapping[str, float]:
        """Return the counters that local objectives need; sent with every download."""
        return {}

    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        """Return what is downloaded besides weights."""
        return {}

    @abstractmethod
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        """Return the global weights after a stage. `uploads` are complete and in site order."""

    def state(self) -> Arrays:
        """Return everything kept between rounds."""
        return {}

    def load_state(self, arrays: Arrays) -> None:
        """Restore what `state` returned."""
        return None

    def metrics(self) -> Mapping[str, float]:
        """Return scalars of the last merge for the log."""
        return {}


def as_given(task: Task) -> Task:
    """Return the task as it is: the method works on both channel encodings."""
    return task


def as_exclusive(task: Task) -> Task:
    """Return the task for a softmax method: a nested one is trained over its label values.

    A label map holds each pixel's innermost class in both encodings, so masks need no conversion;
    evaluation still scores a class together with those inside it.
    """
    return replace(task, output=Output.EXCLUSIVE)


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the registry: a published method and the code of both its halves.

    Args:
        name: registry key and prefix of its configuration keys.
        summary: one line for `fedssl methods`.
        config: pydantic model of its keys.
        server: rule at the coordinator.
        labeled: objective at labeled sites.
        unlabeled: objective at unlabeled sites; None: they only evaluate.
        mixed: objective at mixed sites; None: they train as labeled sites.
        build_model: builds the network from (run, task); weights come from torch's generator.
        parts: names of the model's state by part; `shared` is what is evaluated and digested,
            `private` stays in the site's memory.
        payload: extras that may travel.
        check: raises `ConfigError` where keys of the run and of the method do not fit together.
        task: the task as the network, the objectives and the rule see it; `as_exclusive` for
            softmax methods. `build_model`, `payload` and the setups get its result.
    """

    name: str
    summary: str
    config: type[MethodConfig]
    server: Callable[[ServerSetup], ServerRule]
    labeled: Callable[[LocalSetup], LocalObjective]
    unlabeled: Callable[[LocalSetup], LocalObjective] | None
    mixed: Callable[[LocalSetup], LocalObjective] | None
    build_model: Callable[[RunConfig, Task], SegmentationModel]
    parts: Callable[[nn.Module], dict[str, list[str]]]
    payload: Callable[[RunConfig, Task, Arrays], Payload]
    check: Callable[[RunConfig], None]
    task: Callable[[Task], Task] = as_given
