"""Pseudo-labels: what the received model predicts is taken for the truth.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural
Networks", ICML Workshop on Challenges in Representation Learning, 2013.

A re-implementation for pixels: cross entropy with the hard label of the same image. Differences:
the received model makes the labels, as an unlabeled site has no loss that would correct its own
(`teacher = "current"` labels with the model in training, as published); ramp and aggregation are
`ssl_rule`'s; a threshold can be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from typing_extensions import override

from fedssl.functional.consistency import confidence, hard_label, per_class
from fedssl.methods.base import Method
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig, TeacherKind
from fedssl.methods.terms import pseudo_label_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Term, UnlabeledBatch

__all__ = ["METHOD", "PseudoLabelConfig", "SelfLabeled"]


class PseudoLabelConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `pseudo_label`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    teacher: TeacherKind = Field("global", description="who makes the labels")
    threshold: float = Field(0.0, ge=0, le=1, description="a label counts above this probability")
    view: Literal["weak", "strong"] = Field("weak", description="what the student sees")


class SelfLabeled(StudentTeacher):
    """Mixed and unlabeled sites: learn the hard label of the weak view."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, PseudoLabelConfig)
        output, weak = self.setup.task.output, batch.views["weak"].image
        prob = self.teacher.predict(weak)
        label = hard_label(prob, output)
        trust = per_class(confidence(prob, output) > config.threshold, label.shape[1])
        if not self.step.trust(trust):
            return []
        logits = self.setup.model(batch.views[config.view].image).logits
        scale = self.step.scale
        return [
            pseudo_label_term(
                "pseudo", logits, label, trust, image=weak, output=output, scale=scale
            )
        ]


METHOD = Method(
    name="pseudo_label",
    summary="The received model's hard labels, taken for the truth (Lee 2013).",
    config=PseudoLabelConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=SelfLabeled,
    mixed=SelfLabeled,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
