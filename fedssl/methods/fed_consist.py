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

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.data.augment_ops import gain_channels, offset_channels
from fedssl.functional.averaging import weighted_average
from fedssl.functional.consistency import confidence, hard_label, per_class
from fedssl.functional.losses import supervised_loss
from fedssl.methods.base import Method
from fedssl.methods.fedavg import no_payload
from fedssl.methods.ssl_rule import (
    FederatedConfig,
    PhasedRule,
    capped,
    check_warmup,
    sample_weights,
)
from fedssl.methods.teacher import StudentTeacher, TeacherConfig, TeacherKind
from fedssl.methods.terms import dice_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Arrays, LabeledBatch, Role, Stage, Term, UnlabeledBatch, Upload

__all__ = ["METHOD", "FedConsist", "FedConsistConfig", "FedConsistRule"]


class FedConsistConfig(FederatedConfig, TeacherConfig):
    """Keys of `fed_consist`."""

    unlabeled_weight: float = Field(1.0, ge=0, le=1, description="of an unlabeled site's change")
    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    teacher: TeacherKind = Field("current", description="who labels the plain image")
    threshold: float = Field(0.0, ge=0, le=1, description="a label counts above this probability")
    perturbation: Literal["intensity", "strong"] = Field(
        "intensity", description="gain and offset as in `augment`, or the whole strong view"
    )


class FedConsist(StudentTeacher):
    """All three roles: Dice with masks, or with the label of the unchanged image."""

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        logits = self.setup.model(batch.image).logits
        return supervised_loss(logits, batch.label, self.setup.task.output, ce_weight=0.0)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, FedConsistConfig)
        output, image = self.setup.task.output, batch.views["weak"].image
        prob = self.teacher.predict(image)
        label = hard_label(prob, output)
        trust = per_class(confidence(prob, output) > config.threshold, label.shape[1])
        if not self.step.trust(trust):
            return []
        strong = config.perturbation == "strong"
        seen = batch.views["strong"].image if strong else self._perturbed(image)
        logits = self.setup.model(seen).logits
        scale = self.step.scale
        return [dice_term("dice", logits, label, trust, image=image, output=output, scale=scale)]

    def _perturbed(self, image: Tensor) -> Tensor:
        augment, rng = self.setup.run.augment, self.setup.rng.torch
        return offset_channels(
            gain_channels(image, augment.gain, 1.0, rng), augment.offset, 1.0, rng
        )


class FedConsistRule(PhasedRule):
    """Adds the sites' weighted changes; a weight below 1 shortens the step."""

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        steps = [self._steps(u) for u in uploads]
        shares = [self._importance(round_, u) * n for u, n in zip(uploads, steps, strict=True)]
        shares = capped(uploads, shares, self.common.unlabeled_share)
        total = sum(steps)
        if total <= 0:
            return {}
        old = {name: weights[name] for name in uploads[0].weights}
        # theta + sum w_i (theta_i - theta) = (1 - sum w_i) theta + sum w_i theta_i
        return weighted_average(
            [*(u.weights for u in uploads), old], [*shares, max(0.0, total - sum(shares))]
        )

    def _steps(self, upload: Upload) -> float:
        whole = self.setup.run.local_steps
        return whole - min(max(upload.metrics.get("steps_skipped", 0.0), 0.0), whole)

    def _importance(self, round_: int, upload: Upload) -> float:
        if upload.role != Role.UNLABELED:
            return 1.0
        by_trusted = self.common.weight_by_trusted
        (share,) = sample_weights([upload], 1.0, by_trusted=by_trusted, uniform=True)
        return min(1.0, self.alpha(round_)) * share


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
