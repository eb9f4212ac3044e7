"""One site's stage: begin, steps, end. THE training loop; there is no second one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fedssl.config import RunConfig
from fedssl.errors import FederationError, TrainingError
from fedssl.functional.averaging import all_finite, cpu_copy
from fedssl.functional.losses import reduce_term
from fedssl.functional.schedules import poly
from fedssl.methods.base import (
    LocalObjective,
    LocalSetup,
    Memory,
    Method,
    Recipe,
    TrainingData,
)
from fedssl.models import SegmentationModel
from fedssl.precision import autocast
from fedssl.seeds import derive_seed, generators, seeded
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Role,
    Task,
    UnlabeledBatch,
)

__all__ = ["Batches", "SiteRuntime", "StageResult", "load_weights", "pick_device", "run_stage"]


class Batches(Protocol):
    """Where training samples come from."""

    def next_labeled(self) -> LabeledBatch:
        """Return the next batch with masks."""

    def next_unlabeled(self) -> UnlabeledBatch:
        """Return the next batch without masks."""


@dataclass(frozen=True, slots=True)
class SiteRuntime:
    """What stays in a worker between stages, and the stage's own memory and batches."""

    name: str
    role: Role
    run: RunConfig
    task: Task
    method: Method
    model: SegmentationModel
    data: TrainingData
    batches: Batches
    memory: Memory
    device: torch.device


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage yields for the upload."""

    weights: Arrays
    knowledge: Arrays
    metrics: dict[str, float]


def pick_device(wanted: str) -> torch.device:
    """Return the device for `device = auto | cpu | cuda`."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(
            f"Key 'device': {wanted!r} was given, but torch sees no CUDA device here. Under Ray, "
            "set client-resources-num-gpus above 0; otherwise use device = 'auto' or 'cpu'."
        )
    try:
        return torch.device(wanted)
    except RuntimeError:
        raise TrainingError(f"There is no device {wanted!r}; give auto, cpu or cuda.") from None


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named weights into the model in place; names and shapes must exist."""
    state = model.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            if name not in state or state[name].shape != value.shape:
                have = tuple(state[name].shape) if name in state else "no such entry"
                raise FederationError(
                    f"Received weights {name!r} of shape {tuple(value.shape)}, but the model here "
                    f"has {have}. Coordinator and site must use the same configuration and code."
                )
            state[name].copy_(value)


def run_stage(site: SiteRuntime, download: Download) -> StageResult:
    """Run one training stage at one site; a pure function of its inputs and the site's files."""
    purpose = (download.round, download.stage, site.name)
    load_weights(site.model, download.weights)
    load_weights(site.model, site.memory.load("private") or {})
    site.model.eval()  # `begin` finds the same mode whatever the process did before
    with seeded(derive_seed(site.run.seed, *purpose, "global"), site.device):
        objective = _objective(site, purpose)
        objective.begin(download, site.data)
        means = _train(site, objective, download) if download.trains else {}
        knowledge = cpu_copy(objective.knowledge())
    weights = _trained_parts(site, download)
    return StageResult(weights, knowledge, {**means, **objective.metrics()})


def _objective(site: SiteRuntime, purpose: tuple[int | str, ...]) -> LocalObjective:
    factories = {
        Role.LABELED: site.method.labeled,
        Role.UNLABELED: site.method.unlabeled,
        Role.MIXED: site.method.mixed or site.method.labeled,
    }
    factory = factories[site.role]
    if factory is None:
        raise FederationError(
            f"Method {site.method.name!r} has no training at {site.role} sites, but {site.name!r} "
            "was asked to train. The coordinator's code differs from this site's."
        )
    return factory(
        LocalSetup(
            config=site.run.method_config,
            run=site.run,
            task=site.task,
            model=site.model,
            memory=site.memory,
            rng=generators(site.run.seed, *purpose, "objective"),
            device=site.device,
            role=site.role,
        )
    )


def _trainable(site: SiteRuntime, download: Download) -> dict[str, nn.Parameter]:
    parts = site.method.parts(site.model)
    names = {name for part in (*download.trains, "private") for name in parts.get(part, ())}
    chosen = {}
    for name, parameter in site.model.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.grad = None
        if name in names:
            chosen[name] = parameter
    return chosen


def _by_keys(run: RunConfig, parameters: list[nn.Parameter], lr: float) -> Recipe:
    return Recipe(_optimizer(run, parameters, lr), run.local_steps, run.clip_norm)


def _schedule(run: RunConfig, optimizer: torch.optim.Optimizer, step: int, lr: float) -> None:
    if run.lr_schedule == "poly":
        for group in optimizer.param_groups:
            group["lr"] = lr * poly(step, run.rounds * run.local_steps)


def _optimizer(run: RunConfig, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    if run.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=run.momentum, weight_decay=run.weight_decay)
    cls = torch.optim.AdamW if run.optimizer == "adamw" else torch.optim.Adam
    return cls(parameters, lr, weight_decay=run.weight_decay)


def _train(site: SiteRuntime, objective: LocalObjective, download: Download) -> dict[str, float]:
    run = site.run
    parameters = _trainable(site, download)
    own = objective.recipe(list(parameters.values()))
    lr = run.lr * objective.lr_factor()
    recipe = own or _by_keys(run, list(parameters.values()), lr)
    optimizer = recipe.optimizer
    key = f"optimizer-{download.stage}"
    if own is None and not run.reset_optimizer:
        _restore(optimizer, list(parameters), site.memory.load(key) or {})
    site.model.train()
    log = _LossLog()
    for step in range(recipe.steps):
        if own is None:
            _schedule(run, optimizer, download.round * run.local_steps + step, lr)
        losses = _losses(site, objective)
        total = log.reduce(losses)
        if total is None:
            continue
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if recipe.clip_norm > 0:
            nn.utils.clip_grad_norm_(parameters.values(), recipe.clip_norm)
        optimizer.step()
        objective.after_step()
    means = log.means(site.name, download)
    state = _optimizer_state(optimizer, list(parameters))
    # A state that overflowed in the last step would spoil every later round of this site.
    if own is None and state and not run.reset_optimizer and all_finite(state):
        site.memory.save(key, state)
    return means


def _losses(site: SiteRuntime, objective: LocalObjective) -> Losses:
    labeled = site.batches.next_labeled() if site.role != Role.UNLABELED else None
    wants_unlabeled = site.role == Role.UNLABELED or (
        site.role == Role.MIXED and site.method.mixed is not None
    )
    unlabeled = site.batches.next_unlabeled() if wants_unlabeled and site.data.kept else None
    with autocast(site.run, site.task, site.device):
        return objective.training_step(labeled, unlabeled)


class _LossLog:
    """Sums losses on the device; the host reads them once, after the last step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def reduce(self, losses: Losses) -> Tensor | None:
        """Return the scalar loss of a step, or None if the batch is skipped."""
        values: dict[str, Tensor] = {}
        if losses.supervised is not None:
            values["loss/supervised"] = losses.supervised
        for term in losses.unsupervised:
            values[f"loss/{term.name}"] = reduce_term(term)
        if not values:
            self._counts["skipped"] = self._counts.get("skipped", 0) + 1
            return None
        total = torch.stack(list(values.values())).sum()
        for name, value in {**values, "loss": total}.items():
            old = self._sums.get(name)
            self._sums[name] = value.detach() if old is None else old + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
        return total

    def means(self, site: str, download: Download) -> dict[str, float]:
        """Return mean losses; raise `TrainingError` if the total is not finite."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        total = means.get("loss", 0.0)
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss at site {site!r} is {total} in round {download.round + 1}, stage "
                f"{download.stage!r}. Lower 'lr', set 'clip-norm', or check the site's images."
            )
        return {**means, "steps_skipped": float(self._counts.get("skipped", 0))}


def _optimizer_state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> Arrays:
    """Return the optimizer's tensors as `<parameter>/<entry>`."""
    state = optimizer.state_dict()["state"]
    return cpu_copy(
        {
            f"{names[index]}/{entry}": torch.as_tensor(value)
            for index, entries in state.items()
            for entry, value in entries.items()
            if value is not None
        }
    )


def _restore(optimizer: torch.optim.Optimizer, names: Sequence[str], arrays: Arrays) -> None:
    """Hand each parameter its own state back, whichever others are trained in this stage."""
    position = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        name, _, entry = key.rpartition("/")
        if name in position:
            state.setdefault(position[name], {})[entry] = value
    if state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _trained_parts(site: SiteRuntime, download: Download) -> Arrays:
    if not download.trains:
        return {}
    parts = site.method.parts(site.model)
    state = site.model.state_dict()
    if parts.get("private"):
        site.memory.save("private", cpu_copy({name: state[name] for name in parts["private"]}))
    wanted = [name for part in download.trains for name in parts[part]]
    return cpu_copy({name: state[name] for name in wanted})
