"""MC-Net and MC-Net+: decoders that upsample differently agree on sharpened predictions.

Wu, Xu, Ge, Cai, Zhang, "Semi-supervised Left Atrium Segmentation with Mutual Consistency
Training", MICCAI 2021 (two decoders); Wu, Ge, Zhang, Xu, Zhang, Xia, Cai, "Mutual Consistency
Learning for Semi-supervised Medical Image Segmentation", Medical Image Analysis 81, 2022 (three).

A re-implementation: sum over i != j of mean (p_i - sharpen(p_j))^2 with temperature 0.1, on all
images, labeled ones included; half the sum of the supervised losses of all decoders. Differences:
the sharpened side carries no gradient; Dice + cross entropy in place of Dice alone; our U-Net with
transposed, nearest and linear upsampling; ramp and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.consistency import (
    foreground,
    hard_label,
    mutual_sharpening,
    probabilities,
)
from fedssl.methods.base import LocalSetup, Method
from fedssl.methods.fedavg import no_payload
from fedssl.methods.joint import JointObjective, JointStep
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.models.heads import start_from_prior
from fedssl.models.multi_decoder import MultiDecoderModel, two_decoder_unet
from fedssl.models.parts import shared_parts
from fedssl.types import LabeledBatch, Losses, Task, Term, UnlabeledBatch

__all__ = ["METHOD", "MutualConsistency", "MutualConsistencyConfig"]


class MutualConsistencyConfig(SemiSupervisedConfig):
    """Keys of `mc_net`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    decoders: Literal[2, 3] = Field(3, description="2 is MC-Net, 3 is MC-Net+")
    temperature: float = Field(0.1, gt=0, le=1, description="of the sharpening")
    scope: Literal["all", "unlabeled"] = Field(
        "all", description="images that the decoders have to agree on"
    )


def build_decoders(run: RunConfig, task: Task) -> MultiDecoderModel:
    """Return a U-Net with the configured number of decoders."""
    config, model = run.method_config, run.model
    assert isinstance(config, MutualConsistencyConfig)
    network = two_decoder_unet(
        task.spatial_dims,
        task.channels,
        task.out_channels,
        decoders=config.decoders,
        width=model.width,
        depth=model.depth,
        norm=model.norm,
        dropout_bottleneck=model.dropout_bottleneck,
        dropout_head=model.dropout_head,
    )
    start_from_prior(network, model.foreground_prior, task)
    return network


class MutualConsistency(JointObjective):
    """All three roles: masks for every decoder, and agreement between them."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, MutualConsistencyConfig)
        self._config = setup.config
        self.step = JointStep(setup)

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        agreement: list[Term] = []

        def supervised(batch: LabeledBatch) -> Tensor:
            logits = self._decoded(batch.image)
            if self.step.joint and self._config.scope == "all":
                agreement.append(self._term("agreement-labeled", logits, batch.image))
            losses = [self.setup.supervised(z, batch.label) for z in logits]
            return 0.5 * torch.stack(losses).sum()

        losses = self.step.losses(labeled, unlabeled, self.terms, supervised)
        terms = [*agreement, *losses.unsupervised]
        return Losses(losses.supervised, _mean_over_all(terms))

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        image = batch.views["weak"].image
        return [self._term("agreement", self._decoded(image), image)]

    def _decoded(self, image: Tensor) -> list[Tensor]:
        return cast("MultiDecoderModel", self.setup.model).forward_all(image).logits

    def _term(self, name: str, logits: Sequence[Tensor], image: Tensor) -> Term:
        output = self.setup.task.output
        probs = [probabilities(z, output) for z in logits]
        mean = torch.stack(probs).mean(0)
        loss = mutual_sharpening(probs, self._config.temperature)
        return Term(
            name,
            loss,
            torch.ones_like(loss),
            scale=self.step.scale,
            image=image,
            pseudo_mask=hard_label(mean.detach(), output),
            student_prob=foreground(mean, output),
        )


def _mean_over_all(terms: Sequence[Term]) -> list[Term]:
    """Return terms whose sum is one mean over the samples of all of them."""
    total = sum(len(term.numerator) for term in terms)
    return [replace(t, scale=t.scale * len(t.numerator) / total) for t in terms]


METHOD = Method(
    name="mc_net",
    summary="Decoders that upsample differently agree on sharpened predictions (Wu et al. 2022).",
    config=MutualConsistencyConfig,
    server=WarmupRule,
    labeled=MutualConsistency,
    unlabeled=MutualConsistency,
    mixed=MutualConsistency,
    build_model=build_decoders,
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
