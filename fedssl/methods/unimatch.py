"""UniMatch: one confident label teaches two strong views and perturbed features.

Yang, Qi, Feng, Zhang, Shi, "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic
Segmentation", CVPR 2023 (arXiv 2208.09910), in the form its authors use for medical images.

A re-implementation: soft Dice with the hard label of the weak view where its probability exceeds
0.95, on two strong views with CutMix (1/4 each) and on the weak view's features after dropout of
half their channels (1/2). Differences: the label is made in eval mode; strong views are those of
the run, the second drawn anew; ramp and aggregation are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as nnf
from typing_extensions import override

from fedssl.data.augment import augment_unlabeled
from fedssl.functional.consistency import confidence, hard_label, per_class
from fedssl.functional.mixing import cutmix_boxes, paste
from fedssl.methods.base import Method
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.ssl_rule import SemiSupervisedConfig, WarmupRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig, TeacherKind
from fedssl.methods.terms import dice_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import Term, UnlabeledBatch

__all__ = ["METHOD", "UniMatch", "UniMatchConfig"]


class UniMatchConfig(SemiSupervisedConfig, TeacherConfig):
    """Keys of `unimatch`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    teacher: TeacherKind = Field("current", description="who labels the weak view")
    threshold: float = Field(0.95, ge=0, le=1, description="a label counts above this probability")
    feature_dropout: float = Field(0.5, ge=0, lt=1, description="share of channels switched off")
    cutmix: float = Field(0.5, ge=0, le=1, description="probability of a box in a strong view")


class UniMatch(StudentTeacher):
    """Mixed and unlabeled sites: one label, two strong views, perturbed features."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config, output = self.setup.config, self.setup.task.output
        assert isinstance(config, UniMatchConfig)
        weak = batch.views["weak"].image
        prob = self.teacher.predict(weak)
        label = hard_label(prob, output)
        trust = per_class(confidence(prob, output) > config.threshold, label.shape[1])
        if not self.step.trust(trust):
            return []
        scale, terms = self.step.scale, []
        for index, view in enumerate((batch.views["strong"].image, self._strong(weak)), 1):
            box = self._box(weak)
            image, strong, pseudo, kept = (
                paste(box, x.roll(1, 0), x) for x in (weak, view, label, trust)
            )
            terms.append(
                dice_term(
                    f"strong-{index}",
                    self.setup.model(strong).logits,
                    pseudo,
                    kept,
                    image=image,
                    output=output,
                    scale=scale / 4,
                )
            )
        logits = self._perturbed(weak)
        terms.append(
            dice_term("features", logits, label, trust, image=weak, output=output, scale=scale / 2)
        )
        return terms

    def _strong(self, weak: Tensor) -> Tensor:
        """Return another strong view: geometry is already in the weak one."""
        still = {"flip": False, "rotate": 0.0, "scale": 0.0, "translate": 0.0}
        config = self.setup.run.augment.model_copy(update=still)
        with torch.autocast(weak.device.type, enabled=False):  # as batches are made
            views, _ = augment_unlabeled(weak, {}, config, self.setup.rng.torch)
        return views["strong"].image

    def _box(self, image: Tensor) -> Tensor:
        config = self.setup.config
        assert isinstance(config, UniMatchConfig)
        size = tuple(image.shape[2:])
        boxes = cutmix_boxes(len(image), size, self.setup.rng.torch, probability=config.cutmix)
        return boxes.to(image.device)

    def _perturbed(self, image: Tensor) -> Tensor:
        """Return logits of an image whose encoder features lose whole channels."""
        config, model = self.setup.config, self.setup.model
        assert isinstance(config, UniMatchConfig)
        model.check_size(image)
        drop = nnf.dropout2d if image.ndim == 4 else nnf.dropout3d
        levels = [drop(x, config.feature_dropout) for x in model.encode(image)]
        return model.decode(levels).logits


METHOD = Method(
    name="unimatch",
    summary="One confident label, two strong views, perturbed features (Yang et al. 2023).",
    config=UniMatchConfig,
    server=WarmupRule,
    labeled=Supervised,
    unlabeled=UniMatch,
    mixed=UniMatch,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
