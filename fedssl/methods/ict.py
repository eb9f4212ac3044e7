"""Interpolation consistency: the prediction of a mixture is the mixture of predictions.

Verma, Lamb, Kannala, Bengio, Lopez-Paz, "Interpolation Consistency Training for Semi-Supervised
Learning", IJCAI 2019 (arXiv 1903.03825).

A re-implementation for pixels: mean (p((1 - m) x1 + m x2) - [(1 - m) q1 + m q2])^2, q by the
teacher, m ~ Beta(0.2, 0.2) per pair. Differences: an image's partner is the one half a batch away,
so a batch of one has none and is compared with itself; weak views are mixed; ramp and
aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from typing_extensions import override

from fedssl.functional.mixing import interpolate
from fedssl.methods.base import Method
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig
from fedssl.methods.terms import consistency_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Term, UnlabeledBatch

__all__ = ["METHOD", "Interpolation", "InterpolationConfig"]


class InterpolationConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `ict`."""

    beta: float = Field(0.2, gt=0, description="both parameters of the mixing distribution")


class Interpolation(StudentTeacher):
    """Mixed and unlabeled sites: predict mixtures as mixtures."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, InterpolationConfig)
        image = batch.views["weak"].image
        shift = len(image) // 2
        share = torch.from_numpy(
            self.setup.rng.numpy.beta(config.beta, config.beta, size=len(image))
        )
        target = self.teacher.predict(image)
        mixture = interpolate(image, image.roll(shift, 0), share)
        logits = self.setup.model(mixture).logits
        return [
            consistency_term(
                "interpolation",
                logits,
                interpolate(target, target.roll(shift, 0), share),
                image=mixture,
                output=self.setup.task.output,
                scale=self.step.scale,
            )
        ]


METHOD = Method(
    name="ict",
    summary="The prediction of a mixture is the mixture of predictions (Verma et al. 2019).",
    config=InterpolationConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=Interpolation,
    mixed=Interpolation,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
