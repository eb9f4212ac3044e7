"""URPC: predictions of several scales agree, less so where they are uncertain.

Luo, Wang, Liao, Chen, Song, Chen, Zhang, Metaxas, Zhang, "Semi-supervised Medical Image
Segmentation via Uncertainty Rectified Pyramid Consistency", Medical Image Analysis 80, 2022
(arXiv 2012.07042).

A re-implementation. With the mean prediction m of four scales and v_k = KL(m || p_k), scale k
costs mean((m - p_k)^2 e^(-v_k)) / mean(e^(-v_k)) + mean(v_k); masks supervise every scale.
Differences: the ratio is taken per image instead of per batch, so that an image can be reweighted;
our U-Net with a 1x1 convolution per level; ramp and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.consistency import (
    foreground,
    hard_label,
    probabilities,
    rectified_consistency,
)
from fedssl.methods.base import Method
from fedssl.methods.fedavg import no_payload
from fedssl.methods.joint import JointObjective
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.models.parts import shared_parts
from fedssl.models.pyramid import PyramidUNet
from fedssl.types import LabeledBatch, Task, Term, UnlabeledBatch

__all__ = ["METHOD", "Pyramid", "PyramidConfig"]


class PyramidConfig(SemiSupervisedConfig):
    """Keys of `urpc`."""

    scales: int = Field(4, ge=2, description="predictions; at most the depth of the network")


def build_pyramid(run: RunConfig, task: Task) -> PyramidUNet:
    """Return a U-Net with a prediction per scale."""
    assert isinstance(run.method_config, PyramidConfig)
    return PyramidUNet(run.model, task, run.method_config.scales)


def check(run: RunConfig) -> None:
    """Raise `ConfigError` where phase 2 is empty, or the network has a single scale."""
    check_warmup(run)
    if run.model.depth < 2:
        raise ConfigError(
            f"Method 'urpc' compares scales, but 'model.depth' = {run.model.depth} leaves one. "
            "Set it to 2 or more."
        )


class Pyramid(JointObjective):
    """All three roles: masks for every scale, and agreement between scales."""

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        logits = cast("PyramidUNet", self.setup.model).scales(batch.image)
        return torch.stack([self.setup.supervised(z, batch.label) for z in logits]).mean()

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        output, image = self.setup.task.output, batch.views["weak"].image
        logits = cast("PyramidUNet", self.setup.model).scales(image)
        probs = [probabilities(z, output) for z in logits]
        mean = torch.stack(probs).mean(0)
        loss = rectified_consistency(probs, output)
        return [
            Term(
                "pyramid",
                loss,
                torch.ones_like(loss),
                scale=self.step.scale,
                image=image,
                pseudo_mask=hard_label(mean.detach(), output),
                student_prob=foreground(mean, output),
            )
        ]


METHOD = Method(
    name="urpc",
    summary="Predictions of several scales agree where they are certain (Luo et al. 2022).",
    config=PyramidConfig,
    server=WarmupRule,
    labeled=Pyramid,
    unlabeled=Pyramid,
    mixed=Pyramid,
    build_model=build_pyramid,
    parts=shared_parts,
    payload=no_payload,
    check=check,
)
