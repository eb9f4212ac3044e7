"""Mutual learning: decoders that see one encoder differently teach each other where they are sure.

Su, Luo, Lian, Lin, Li, "Mutual learning with reliable pseudo label for semi-supervised medical
image segmentation", Medical Image Analysis 94:103111, 2024.

Written from the paper's equations and the behaviour of the released program, without its text.
Of two decoders the one with the lower entropy at a voxel teaches the other there, weighted by how
well its feature agrees with the class prototypes of its own labels; masks supervise both with a
soft Dice loss. The loss at every site is

    gamma * sum_k Dice(p_k, y) + beta(t) * sum_{i != j} L_ij

with t the step of the whole run, so that no round restarts the ramp. That every site minimises it
and the coordinator averages, part by part, is our extension to a federation: unlabeled sites have
the second part only, so they join after a warm-up, with a weight, and watched by an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.averaging import weighted_average
from fedssl.functional.labels import foreground_targets
from fedssl.functional.mutual import MutualLoss, mutual_loss
from fedssl.functional.proximal import proximal_penalty
from fedssl.functional.schedules import sigmoid_ramp
from fedssl.methods.base import (
    LocalObjective,
    LocalSetup,
    Method,
    ServerRule,
    ServerSetup,
    TrainingData,
    as_exclusive,
)
from fedssl.methods.clock import check_warmup, warmup_rounds
from fedssl.methods.fedavg import no_payload
from fedssl.methods.mutual_health import Health
from fedssl.methods.mutual_nets import (
    VNET_DEPTH,
    Network,
    Sharing,
    all_outputs,
    build_students,
    student_parts,
)
from fedssl.methods.ssl_rule import GuardConfig, capped, learned_nothing
from fedssl.models import SegmentationModel
from fedssl.models.multi_decoder import MultiOutput
from fedssl.roster import counts_as_labeled
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Output,
    Role,
    Stage,
    Task,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "MutualConfig", "MutualLearning", "MutualRule"]


class MutualConfig(GuardConfig):
    """Keys of `mutual`; the mathematics is the authors', the federation's guards are ours."""

    network: Network = Field("unet", description="vnet: the published one, model.depth = 4")
    decoders: int = Field(2, ge=2, le=3, description="transposed, nearest, linear upsampling")
    shared: Sharing = Field("all", description="what travels; or two networks that share nothing")
    gamma: float = Field(0.5, ge=0, description="weight of the supervised Dice")
    ce_weight: float = Field(0.0, ge=0, description="supervised cross entropy beside the Dice")
    beta_max: float = Field(1.0, ge=0, description="final weight of the consistency")
    ramp_steps: int = Field(-1, ge=-1, description="steps of beta's ramp; -1 is 40 % of the run's")
    ramp_interval: int = Field(1, ge=1, description="steps between values of beta; 150 as released")
    ce_input: Literal["logits", "probs"] = Field(
        "logits", description="probs: the first release's double softmax"
    )
    consistency_scope: Literal["all", "unlabeled"] = Field(
        "all", description="samples that the decoders teach each other on"
    )
    classes: Literal["all", "present"] = Field(
        "all", description="classes that the reliability is averaged over"
    )
    view: Literal["weak", "strong"] = Field("weak", description="view of unlabeled images")
    warmup_rounds: int = Field(-1, ge=-1, description="without unlabeled sites; -1 is rounds / 3")
    unlabeled_lr: float = Field(0.1, gt=0, description="factor of `lr` at unlabeled sites")
    weigh_mixed_by: Literal["all", "labeled"] = Field(
        "all", description="samples that a mixed site counts with in the average"
    )
    alarm_foreground: float = Field(
        1e-4, ge=0, lt=0.5, description="warn if pseudo-labels hold less foreground, or background"
    )


def check(run: RunConfig) -> None:
    """Raise `ConfigError` where keys contradict each other."""
    config = run.method_config
    assert isinstance(config, MutualConfig)
    check_warmup("mutual", config.warmup_rounds, run.rounds)
    if config.network == "vnet" and run.model.depth != VNET_DEPTH:
        raise ConfigError(
            f"Key 'model.depth' = {run.model.depth}, but 'mutual.network' = 'vnet' halves its "
            f"input {VNET_DEPTH} times. Set model.depth = {VNET_DEPTH}, or mutual.network = 'unet'."
        )
    if config.shared == "two_networks" and config.decoders != 2:
        raise ConfigError(
            f"Key 'mutual.decoders' = {config.decoders}, but 'mutual.shared' = 'two_networks' has "
            "one decoder in each of two networks. Set mutual.decoders = 2."
        )


def build_model(run: RunConfig, task: Task) -> SegmentationModel:
    """Return the decoders or networks that the keys of `mutual` ask for."""
    config = run.method_config
    assert isinstance(config, MutualConfig)
    return build_students(
        run.model, task, network=config.network, decoders=config.decoders, shared=config.shared
    )


class MutualLearning(LocalObjective):
    """All three roles: what batches there are decides which parts of the loss there are."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, MutualConfig)
        self._config = setup.config
        self._health = Health(setup.task.num_classes, setup.config.alarm_foreground)
        self._site = ""
        self._step = self._ramp = 0
        self._beta = 0.0
        self._received: list[Tensor] = []

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self._site = download.site
        self._step, self._ramp = int(download.clock["step"]), int(download.clock["ramp"])

    @override
    def lr_factor(self) -> float:
        return self._config.unlabeled_lr if self.setup.role == Role.UNLABELED else 1.0

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        image, target = self._joined(labeled, unlabeled)
        outputs = all_outputs(self.setup.model, image)
        count, config = len(target), self._config
        self._advance()
        loss = mutual_loss(
            outputs.logits,
            outputs.features,
            target,
            count,
            gamma=config.gamma,
            scope=config.consistency_scope,
            ce_input=config.ce_input,
            classes=config.classes,
        )
        first = count if config.consistency_scope == "unlabeled" else 0
        self._health.record(loss, count - first)
        terms = self._terms(loss, outputs, image, first)
        if labeled is not None:
            return Losses(self._supervised(loss, outputs, target), terms)
        # One look at the device per step: a step without a gradient would still move the weights
        # by its momentum.
        if not bool(loss.denominator.any()):
            return Losses()
        return Losses(self._proximal(), terms)

    def _advance(self) -> None:
        """Count the step, on the run's own clock, and set the consistency's weight for it."""
        self._step += 1
        interval = self._config.ramp_interval
        done = self._step // interval * interval
        self._beta = self._config.beta_max * sigmoid_ramp(done, self._ramp)

    def _joined(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> tuple[Tensor, Tensor]:
        """Return one batch, labeled samples first, and their masks.

        One pass, so that both kinds share the statistics of batch normalisation.
        """
        images = [] if labeled is None else [labeled.image]
        if unlabeled is not None:
            images.append(unlabeled.views[self._config.view].image)
        image = torch.cat(images)
        if labeled is not None:
            return image, labeled.label
        return image, image.new_zeros((0, *image.shape[2:]), dtype=torch.int64)

    def _terms(
        self, loss: MutualLoss, outputs: MultiOutput, image: Tensor, first: int
    ) -> list[Term]:
        """Return one term per ordered pair of decoders; none where no sample is in scope."""
        if first == len(image):
            return []
        foreground = self.setup.task.num_classes - 1
        probs = [torch.softmax(z[first:].float(), 1)[:, 1:] for z in outputs.logits]
        labels = [foreground_targets(t.label, foreground, Output.EXCLUSIVE) for t in loss.teachers]
        return [
            Term(
                f"mutual-{student + 1}-from-{teacher + 1}",
                loss.numerator[pair],
                loss.denominator[pair],
                scale=self._beta,
                image=image[first:],
                pseudo_mask=labels[teacher].to(torch.uint8),
                student_prob=probs[student],
            )
            for pair, (student, teacher) in enumerate(loss.pairs)
        ]

    def _supervised(self, loss: MutualLoss, outputs: MultiOutput, target: Tensor) -> Tensor:
        total = loss.supervised
        if self._config.ce_weight > 0:
            losses = [nnf.cross_entropy(z[: len(target)].float(), target) for z in outputs.logits]
            total = total + self._config.ce_weight * torch.stack(losses).sum()
        return self._config.gamma * total

    def _proximal(self) -> Tensor | None:
        if self._config.proximal == 0:
            return None
        parameters = [p for p in self.setup.model.parameters() if p.requires_grad]
        if not self._received:  # the first step: nothing has moved yet
            self._received = [p.detach().clone() for p in parameters]
        return proximal_penalty(parameters, self._received, self._config.proximal)

    @override
    def metrics(self) -> Mapping[str, float]:
        found = self._health.metrics()
        self._health.warn(self._site, found)
        return {**found, "beta": self._beta}


class MutualRule(ServerRule):
    """The average of all sites' weights; unlabeled sites join after the warm-up."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, MutualConfig)
        self._config = setup.config
        self._warmup = warmup_rounds(setup.config.warmup_rounds, setup.run.rounds)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        everyone = round_ >= self._warmup
        sites = [s for s, i in self.setup.roster.items() if everyone or counts_as_labeled(i)]
        return [Stage("train", tuple(sites), trains=("shared",))]

    @override
    def clock(self, round_: int) -> Mapping[str, float]:
        steps, given = self.setup.run.local_steps, self._config.ramp_steps
        ramp = round(0.4 * self.setup.run.rounds * steps) if given < 0 else given
        return {"step": float(round_ * steps), "ramp": float(ramp)}

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        shares = capped(uploads, [self._weight(u) for u in uploads], self._config.unlabeled_share)
        return weighted_average([u.weights for u in uploads], shares)

    def _weight(self, upload: Upload) -> float:
        if upload.role == Role.UNLABELED:
            count = 0 if learned_nothing(upload) else upload.num_examples
            return self._config.unlabeled_weight * count
        by_all = upload.role == Role.MIXED and self._config.weigh_mixed_by == "all"
        return float(upload.num_examples if by_all else upload.num_labeled)


METHOD = Method(
    name="mutual",
    summary="Decoders teach each other where they are sure and reliable (Su et al. 2024).",
    config=MutualConfig,
    server=MutualRule,
    labeled=MutualLearning,
    unlabeled=MutualLearning,
    mixed=MutualLearning,
    build_model=build_model,
    parts=student_parts,
    payload=no_payload,
    check=check,
    task=as_exclusive,
)
