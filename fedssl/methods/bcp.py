"""Bidirectional copy-paste: labeled and unlabeled images are pasted into each other.

Bai, Chen, Li, Shen, Wang, "Bidirectional Copy-Paste for Semi-Supervised Medical Image
Segmentation", CVPR 2023 (arXiv 2305.00673).

A re-implementation. Warm-up: pairs of labeled images, one box of 2/3 of each side pasted from one
into the other. Then, with labels of an average teacher reduced to the largest component of each
class, the box goes both ways between labeled and unlabeled images; each direction costs
(Dice + CE) / 2 on the labeled region plus alpha = 0.5 times that on the other.

Ours: a site with unlabeled images only has nothing to paste from, so it pastes between pairs of
its own images, both with the teacher's labels; labeled sites keep pasting between their pairs.
Differences: Dice per image; ramp of alpha and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.functional.consistency import hard_label
from fedssl.functional.denoising import largest_component
from fedssl.functional.labels import foreground_probabilities, foreground_targets, repair_nesting
from fedssl.functional.losses import masked_pixel_loss, masked_soft_dice
from fedssl.functional.mixing import fixed_box, paste
from fedssl.methods.base import Method
from fedssl.methods.fedavg import no_payload
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import LabeledBatch, Losses, Output, Term, UnlabeledBatch

__all__ = ["METHOD", "CopyPaste", "CopyPasteConfig", "region_loss"]


class CopyPasteConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `bcp`."""

    weight: float = Field(0.5, ge=0, description="final weight of an unlabeled region")
    box: float = Field(2 / 3, gt=0, lt=1, description="side of the box as a share of the image's")
    largest_component: bool = Field(True, description="of each class in the teacher's labels")


def region_loss(logits: Tensor, target: Tensor, region: Tensor, output: Output) -> Tensor:
    """Return (Dice + cross entropy) / 2 of each sample over a region [B].

    Args:
        logits: [B, O, *S].
        target: [B, F, *S] binary foreground maps.
        region: [*, 1, *S] bool.
        output: channel encoding.
    """
    mask = region.expand_as(target)
    numerator, denominator = masked_pixel_loss(logits, target, mask, output)
    dice = masked_soft_dice(logits, target, mask, output)
    return (numerator / denominator.clamp_min(1) + dice) / 2


class CopyPaste(StudentTeacher):
    """All three roles: what is pasted into what depends on what the site has."""

    @property
    def _config(self) -> CopyPasteConfig:
        assert isinstance(self.setup.config, CopyPasteConfig)
        return self.setup.config

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        if labeled is None or unlabeled is None or not self.step.joint:
            return self.step.losses(labeled, unlabeled, self.terms, self.supervised)
        supervised, term = self._both_ways(labeled, unlabeled)
        return self.step.losses(labeled, unlabeled, lambda _: [term], lambda _: supervised)

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        """Return the supervised loss on images with a box of the next labeled image."""
        box = self._box(batch.image)
        image = paste(box, batch.image.roll(1, 0), batch.image)
        label = paste(box[:, 0], batch.label.roll(1, 0), batch.label)
        return self.setup.supervised(self.setup.model(image).logits, label)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        """Return the loss on images with a box of the next one, with the teacher's labels."""
        output, image = self.setup.task.output, batch.views["weak"].image
        label, box = self._labels(image), self._box(image)
        image = paste(box, image.roll(1, 0), image)
        label = paste(box, label.roll(1, 0), label)
        logits = self.setup.model(image).logits
        loss = region_loss(logits, label, torch.ones_like(box), output)
        return [self._term(loss, image, label, logits)]

    def _both_ways(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch) -> tuple[Tensor, Term]:
        """Return the loss of the labeled regions, and the term of the unlabeled ones."""
        output, ours = self.setup.task.output, labeled.image
        theirs = unlabeled.views["weak"].image
        pseudo, box = self._labels(theirs), self._box(theirs)
        inward = self.setup.model(paste(box, theirs, ours)).logits
        outward = self.setup.model(paste(box, ours, theirs)).logits
        truth = foreground_targets(labeled.label, pseudo.shape[1], output)
        supervised = region_loss(inward, truth, ~box, output)
        supervised = supervised + region_loss(outward, truth, box, output)
        loss = region_loss(inward, pseudo, box, output)
        loss = loss + region_loss(outward, pseudo, ~box, output)
        # Each pixel of the unlabeled image is seen once: in the box, or around the pasted one.
        return supervised.mean(), self._term(loss, theirs, pseudo, paste(box, inward, outward))

    def _term(self, loss: Tensor, image: Tensor, label: Tensor, logits: Tensor) -> Term:
        return Term(
            "copy-paste",
            loss,
            torch.ones_like(loss),
            scale=self.step.scale,
            image=image,
            pseudo_mask=label,
            student_prob=foreground_probabilities(logits.float(), self.setup.task.output),
        )

    def _box(self, image: Tensor) -> Tensor:
        box = fixed_box(tuple(image.shape[2:]), self._config.box, self.setup.rng.torch)
        return box.to(image.device)

    def _labels(self, image: Tensor) -> Tensor:
        """Return the teacher's labels [B, F, *S] of weak views."""
        label = hard_label(self.teacher.predict(image), self.setup.task.output)
        if not self._config.largest_component:
            return label
        masks = [[largest_component(m) for m in sample] for sample in label.cpu().numpy()]
        kept = torch.from_numpy(np.array(masks)).to(label)
        nested = self.setup.task.output == Output.NESTED
        return repair_nesting(kept).mask if nested else kept


METHOD = Method(
    name="bcp",
    summary="Labeled and unlabeled images pasted into each other (Bai et al. 2023).",
    config=CopyPasteConfig,
    server=WarmupRule,
    labeled=CopyPaste,
    unlabeled=CopyPaste,
    mixed=CopyPaste,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
