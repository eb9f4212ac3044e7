"""Mean Teacher: the student agrees with an average of its own past.

Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged consistency targets
improve semi-supervised deep learning results", NeurIPS 2017 (arXiv 1703.01780).

A re-implementation. The unsupervised loss is mean (p(x) - p_teacher(x + noise))^2, the noise
0.1 * N(0, 1) cut at 0.2. Differences from usual centralised code: the teacher lives at the site
and survives rounds; it predicts in eval mode; the student sees the strong view
(`view = "weak"` gives it the plain image); ramp and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from typing_extensions import override

from fedssl.methods.base import Method
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig, noisy
from fedssl.methods.terms import consistency_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Term, UnlabeledBatch

__all__ = ["METHOD", "Consistency", "MeanTeacherConfig"]


class MeanTeacherConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `mean_teacher`."""

    noise: float = Field(0.1, ge=0, description="standard deviation added to the teacher's image")
    view: Literal["weak", "strong"] = Field("strong", description="what the student sees")


class Consistency(StudentTeacher):
    """Mixed and unlabeled sites: agree with the teacher."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, MeanTeacherConfig)
        weak = batch.views["weak"].image
        target = self.teacher.predict(noisy(weak, config.noise))
        logits = self.setup.model(batch.views[config.view].image).logits
        output, scale = self.setup.task.output, self.step.scale
        return [
            consistency_term("consistency", logits, target, image=weak, output=output, scale=scale)
        ]


METHOD = Method(
    name="mean_teacher",
    summary="Agreement with an average of the student's past (Tarvainen and Valpola 2017).",
    config=MeanTeacherConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=Consistency,
    mixed=Consistency,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
