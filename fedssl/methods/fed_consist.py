"""Fed-Consist: an unlabeled site's prediction has to survive a change of intensities.

Yang, Xu, Li, Myronenko, Roth, et al., "Federated semi-supervised learning for COVID region
segmentation in chest CT using multi-national data from China, Italy, Japan", Medical Image
Analysis 70, 2021 (arXiv 2011.11750).

A re-implementation without public code. Labeled sites: soft Dice. Unlabeled sites: y = 1[p(u) >
0.5] by the model in training, then the Dice loss between y and p(g(u)), g a random gain and offset
of intensities. The coordinator adds sum_i w_i (theta_i - theta) with w_i = W_i n_i / sum n, n_i
local steps and W_i the site's weight, 1 or `unlabeled-weight`. Differences: all sites share one
learning rate (published: a far smaller one at unlabeled sites); Dice per image; for more than one
class the most probable one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.data.augment_ops import gain_channels, offset_channels
from fedssl.functional.averaging import weighted_average
from fedssl.functional.consistency import confidence, hard_label, per_class
from fedssl.functional.losses import supervised_loss
from fedssl.methods.base import (
    LocalObjective,
    LocalSetup,
    Method,
    ServerSetup,
    TrainingData,
)
from fedssl.methods.fedavg import no_payload
from fedssl.methods.ssl_rule import (
    JointStep,
    PhasedRule,
    SemiSupervisedConfig,
    check_warmup,
    sample_weights,
)
from fedssl.methods.teacher import Teacher, TeacherConfig, TeacherKind
from fedssl.methods.terms import dice_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Role,
    Stage,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "FedConsist", "FedConsistConfig", "FedConsistRule"]


class FedConsistConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `fed_consist`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    teacher: TeacherKind = Field("current", description="who labels the plain image")
    threshold: float = Field(0.0, ge=0, le=1, description="a label counts above this probability")
    perturbation: Literal["intensity", "strong"] = Field(
        "intensity", description="gain and offset as in `augment`, or the whole strong view"
    )


class FedConsist(LocalObjective):
    """All three roles: Dice with masks, or with the label of the unchanged image."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, FedConsistConfig)
        self._config = setup.config
        self._step = JointStep(setup)
        self._teacher = Teacher(setup, setup.config)

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self._step.begin(download)
        if self._step.joint and data.unlabeled:
            self._teacher.begin()

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        return self._step.losses(labeled, unlabeled, self._terms, self._dice)

    def _dice(self, batch: LabeledBatch) -> Tensor:
        logits = self.setup.model(batch.image).logits
        return supervised_loss(logits, batch.label, self.setup.task.output, ce_weight=0.0)

    def _terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        output, image = self.setup.task.output, batch.views["weak"].image
        prob = self._teacher.predict(image)
        label = hard_label(prob, output)
        trust = per_class(confidence(prob, output) > self._config.threshold, label.shape[1])
        if not self._step.trust(trust):
            return []
        logits = self.setup.model(self._perturbed(batch)).logits
        scale = self._step.scale
        return [dice_term("dice", logits, label, trust, image=image, output=output, scale=scale)]

    def _perturbed(self, batch: UnlabeledBatch) -> Tensor:
        if self._config.perturbation == "strong":
            return batch.views["strong"].image
        augment, rng = self.setup.run.augment, self.setup.rng.torch
        image = gain_channels(batch.views["weak"].image, augment.gain, 1.0, rng)
        return offset_channels(image, augment.offset, 1.0, rng)

    @override
    def after_step(self) -> None:
        self._teacher.follow()

    @override
    def knowledge(self) -> Arrays:
        self._teacher.keep()
        return {}

    @override
    def metrics(self) -> Mapping[str, float]:
        return self._step.metrics()


class FedConsistRule(PhasedRule):
    """Adds the sites' weighted changes; a weight below 1 shortens the step."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, FedConsistConfig)
        self._config = setup.config

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        steps = [self.setup.run.local_steps - u.metrics.get("steps_skipped", 0.0) for u in uploads]
        shares = [self._importance(round_, u) * n for u, n in zip(uploads, steps, strict=True)]
        total = sum(steps)
        if total <= 0:
            return {}
        old = {name: weights[name] for name in uploads[0].weights}
        # theta + sum w_i (theta_i - theta) = (1 - sum w_i) theta + sum w_i theta_i
        return weighted_average(
            [*(u.weights for u in uploads), old], [*shares, max(0.0, total - sum(shares))]
        )

    def _importance(self, round_: int, upload: Upload) -> float:
        if upload.role != Role.UNLABELED:
            return 1.0
        alpha = self._config.unlabeled_weight * self.phases.grown(round_)
        by_trusted = self._config.weight_by_trusted
        (share,) = sample_weights([upload], 1.0, by_trusted=by_trusted, uniform=True)
        return min(1.0, alpha) * share


METHOD = Method(
    name="fed_consist",
    summary="A label has to survive a change of intensities (Yang et al. 2021).",
    config=FedConsistConfig,
    server=FedConsistRule,
    labeled=FedConsist,
    unlabeled=FedConsist,
    mixed=FedConsist,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
