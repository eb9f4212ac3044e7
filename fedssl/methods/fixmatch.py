"""FixMatch: a confident label of the weak view teaches the strong view.

Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence",
NeurIPS 2020 (arXiv 2001.07685).

A re-implementation for pixels: cross entropy of the strong view with the hard label of the weak
view where its probability exceeds the threshold, divided by the number of all pixels. Differences:
weak and strong views share their geometry; nested tasks test each class on its own; ramp and
aggregation are `ssl_rule`'s. `teacher = "ema"` and `dice-weight = 1` give the form that public
medical benchmarks run.
"""

from __future__ import annotations

from collections.abc import Sequence

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

__all__ = ["METHOD", "FixMatch", "FixMatchConfig"]


class FixMatchConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `fixmatch`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    teacher: TeacherKind = Field("current", description="who labels the weak view")
    threshold: float = Field(0.95, ge=0, le=1, description="a label counts above this probability")
    dice_weight: float = Field(0.0, ge=0, description="soft Dice beside the cross entropy")


class FixMatch(StudentTeacher):
    """Mixed and unlabeled sites: weak view labels, strong view learns."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, FixMatchConfig)
        output, weak = self.setup.task.output, batch.views["weak"].image
        prob = self.teacher.predict(weak)
        label = hard_label(prob, output)
        trust = per_class(confidence(prob, output) > config.threshold, label.shape[1])
        if not self.step.trust(trust):
            return []
        return [
            pseudo_label_term(
                "fixmatch",
                self.setup.model(batch.views["strong"].image).logits,
                label,
                trust,
                image=weak,
                output=output,
                scale=self.step.scale,
                dice_weight=config.dice_weight,
                over="all",
            )
        ]


METHOD = Method(
    name="fixmatch",
    summary="Confident labels of the weak view teach the strong view (Sohn et al. 2020).",
    config=FixMatchConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=FixMatch,
    mixed=FixMatch,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
