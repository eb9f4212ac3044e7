"""Cross pseudo supervision: each of two networks learns the hard label of the other.

Chen, Yuan, Zeng, Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision",
CVPR 2021 (arXiv 2106.01226).

A re-implementation: CE(z1, argmax p2) + CE(z2, argmax p1) on unlabeled images, the supervised loss
for both networks. Both are averaged, each with its namesake; the first is evaluated. Differences:
one optimizer holds both networks; nested tasks use `p > 0.5` per class; no CutMix; ramp and
aggregation are `ssl_rule`'s, and the weight 0.1 is that of public medical benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.consistency import hard_label, probabilities
from fedssl.methods.base import LocalSetup, Method
from fedssl.methods.fedavg import no_payload
from fedssl.methods.joint import JointObjective
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.terms import pseudo_label_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.models.two_networks import TwoNetworks
from fedssl.types import LabeledBatch, Task, Term, UnlabeledBatch

__all__ = ["METHOD", "CrossConfig", "CrossSupervision", "build_two", "supervise_both"]


class CrossConfig(SemiSupervisedConfig):
    """Keys of `cps`: the common ones."""


def build_two(run: RunConfig, task: Task) -> TwoNetworks:
    """Return two U-Nets of the run's configuration with different weights."""
    return TwoNetworks(lambda: build_unet(run.model, task))


def supervise_both(setup: LocalSetup, batch: LabeledBatch) -> Tensor:
    """Return the sum of both networks' supervised losses."""
    logits = cast("TwoNetworks", setup.model).both(batch.image)
    losses = [setup.supervised(z, batch.label) for z in logits]
    return torch.stack(losses).sum()


class CrossSupervision(JointObjective):
    """All three roles: masks for both networks, and each other's labels without masks."""

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        return supervise_both(self.setup, batch)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        output, image = self.setup.task.output, batch.views["weak"].image
        logits = cast("TwoNetworks", self.setup.model).both(image)
        labels = [hard_label(probabilities(z.detach(), output), output) for z in logits]
        return [
            pseudo_label_term(
                f"cross-{student + 1}",
                logits[student],
                labels[1 - student],
                torch.ones_like(labels[1 - student]),
                image=image,
                output=output,
                scale=self.step.scale,
            )
            for student in (0, 1)
        ]


METHOD = Method(
    name="cps",
    summary="Two networks learn each other's hard labels (Chen et al. 2021).",
    config=CrossConfig,
    server=WarmupRule,
    labeled=CrossSupervision,
    unlabeled=CrossSupervision,
    mixed=CrossSupervision,
    build_model=build_two,
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
