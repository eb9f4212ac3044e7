"""Uncertainty-aware Mean Teacher: the student agrees with the teacher where the teacher is sure.

Yu, Wang, Li, Fu, Heng, "Uncertainty-Aware Self-ensembling Model for Semi-supervised 3D Left Atrium
Segmentation", MICCAI 2019 (arXiv 1907.07034).

A re-implementation. The mean of 8 teacher passes with dropout and noise gives an entropy H; the
loss is sum M (p - p_teacher)^2 / (K sum M) with M = [H < (3/4 + 1/4 r(t)) ln K], where r grows over
the whole joint phase. Differences: ln K for K classes (public code keeps ln 2); nested tasks test
each class against ln 2; ramp of the loss and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from typing_extensions import override

from fedssl.functional.consistency import relative_entropy
from fedssl.methods.base import Method
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.mean_teacher import MeanTeacherConfig
from fedssl.methods.ssl_rule import WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, noisy
from fedssl.methods.terms import consistency_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Term, UnlabeledBatch

__all__ = ["METHOD", "UncertaintyAware", "UncertaintyAwareConfig"]


class UncertaintyAwareConfig(MeanTeacherConfig):
    """Keys of `ua_mt`; noise and decay are those of `mean_teacher`."""

    passes: int = Field(8, ge=1, description="teacher passes with dropout and noise")
    threshold: float = Field(
        0.75, ge=0, le=1, description="largest entropy at first, as a share of ln K; ends at 1"
    )


class UncertaintyAware(StudentTeacher):
    """Mixed and unlabeled sites: agree with the teacher where its entropy is low."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, UncertaintyAwareConfig)
        output = self.setup.task.output
        weak = batch.views["weak"].image
        target = self.teacher.predict(noisy(weak, config.noise))
        mean = self.teacher.mean_of_passes(weak, config.passes, config.noise)
        threshold = config.threshold + (1 - config.threshold) * self.step.grown
        gate = relative_entropy(mean, output) < threshold
        if not self.step.trust(gate):
            return []
        logits = self.setup.model(batch.views[config.view].image).logits
        return [
            consistency_term(
                "consistency",
                logits,
                target,
                image=weak,
                output=output,
                scale=self.step.scale,
                gate=gate,
            )
        ]


METHOD = Method(
    name="ua_mt",
    summary="Mean Teacher where the teacher's entropy is low (Yu et al. 2019).",
    config=UncertaintyAwareConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=UncertaintyAware,
    mixed=UncertaintyAware,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
