"""Quality guidance: a network that predicts how good a mask is decides what is learned from.

Abhishek and Hamarneh, "Quality-guided semi-supervised learning for medical image segmentation",
arXiv 2606.01753, 2026.

Written from the paper and the behaviour of the released code, without its text. Labeled sites train
the predictor on masks of known quality; unlabeled ones weigh their samples with it. `guide` does
that for any method; the method `quality` is the paper's PL-QW, guided hard pseudo-labels. What is
ours: the federation, several classes, volumes; the received global model as the teacher (an average
that is reset every round hardly moves), the sigmoid ramp and the averaging of `ssl_rule`, and the
proximal term at unlabeled sites, which have no masks to hold on to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.consistency import hard_label
from fedssl.methods import pseudo_label
from fedssl.methods.base import ArraySpec, Method, Payload
from fedssl.methods.payload import EVERYONE
from fedssl.methods.quality_config import (
    GuideConfig,
    anchored,
    base_run,
    guide_config,
    predictor_rounds,
)
from fedssl.methods.quality_guide import Guided
from fedssl.methods.quality_predictor import GATE, PREDICTOR
from fedssl.methods.quality_rule import GuidedRule
from fedssl.methods.ssl_rule import SemiSupervisedConfig
from fedssl.methods.teacher import StudentTeacher, TeacherConfig, TeacherKind
from fedssl.methods.terms import pseudo_label_term
from fedssl.models import SegmentationModel
from fedssl.models.quality_net import QualityNet
from fedssl.types import Arrays, Task, Term, UnlabeledBatch

__all__ = ["METHOD", "QualityConfig", "WholeImageLabels", "guide"]


class QualityConfig(GuideConfig, SemiSupervisedConfig, TeacherConfig):
    """Keys of `quality`: those that guide any method, and those of its own pseudo-labels."""

    weight: float = Field(0.25, ge=0, description="final lambda of the unsupervised loss")
    unlabeled_weight: float = Field(
        0.5, ge=0, description="final weight alpha of an unlabeled site's sample in the average"
    )
    proximal: float = Field(1e-3, ge=0, description="FedProx mu at unlabeled sites")
    teacher: TeacherKind = Field("global", description="who makes the labels")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="largest decay of the average")
    view: Literal["weak", "strong"] = Field("weak", description="what the student sees")


class WholeImageLabels(StudentTeacher):
    """Mixed and unlabeled sites: cross entropy + Dice with the hard label, over all pixels.

    Twice the paper's 0.5 BCE + 0.5 (1 - Dice) per sample, as the supervised loss is twice its.
    """

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config = self.setup.config
        assert isinstance(config, QualityConfig)
        output, weak = self.setup.task.output, batch.views["weak"].image
        label = hard_label(self.teacher.predict(weak), output)
        logits = self.setup.model(batch.views[config.view].image).logits
        everywhere = torch.ones_like(label)
        return [
            pseudo_label_term(
                "pseudo",
                logits,
                label,
                everywhere,
                image=weak,
                output=output,
                scale=self.step.scale,
                dice_weight=1.0,
            )
        ]


def guide(method: Method) -> Method:
    """Return a method that trains a quality predictor, and is guided by it."""
    return replace(
        method,
        server=partial(GuidedRule, method=method),
        labeled=partial(Guided, base=method.labeled),
        unlabeled=method.unlabeled and partial(Guided, base=method.unlabeled),
        mixed=method.mixed and partial(Guided, base=method.mixed),
        build_model=partial(_build_model, method),
        parts=partial(_parts, method),
        payload=partial(_payload, method),
        check=partial(_check, method),
    )


def _build_model(method: Method, run: RunConfig, task: Task) -> SegmentationModel:
    """Return the base model with a predictor in it; the base's weights are as without one."""
    config = guide_config(run)
    model = method.build_model(base_run(run), task)
    # Sites lack the file and need none: they are sent the predictor. The rule insists on it.
    pretrained = Path(config.pretrained) if Path(config.pretrained).is_file() else None
    model.add_module(
        PREDICTOR,
        QualityNet(
            task.channels,
            task.num_classes - 1,
            backbone=config.backbone,
            width=config.width,
            dropout=config.dropout,
            weights=pretrained,
        ),
    )
    return model


def _parts(method: Method, model: nn.Module) -> dict[str, list[str]]:
    names = [n for n in model.state_dict() if n.startswith(f"{PREDICTOR}.")]
    base = {
        part: [n for n in held if n not in set(names)] for part, held in method.parts(model).items()
    }
    return {**base, PREDICTOR: names}


def _payload(method: Method, run: RunConfig, task: Task, weights: Arrays) -> Payload:
    own = {k: v for k, v in weights.items() if not k.startswith(f"{PREDICTOR}.")}
    base = method.payload(base_run(run), task, own)
    sums = ArraySpec((6,), torch.float64, EVERYONE)
    return replace(base, up={**base.up, GATE: {"normal": sums, "blackout": sums}})


def _check(method: Method, run: RunConfig) -> None:
    """Raise `ConfigError` where keys contradict each other, or nothing can be guided."""
    config, rounds = guide_config(run), predictor_rounds(run)
    if method.unlabeled is None and method.mixed is None:
        raise ConfigError(
            f"Key 'quality.guide': method {run.method!r} learns from masks only, so there is "
            "nothing to guide. Choose a semi-supervised method, e.g. 'denoise'."
        )
    if not 0 < rounds < run.rounds:
        raise ConfigError(
            f"Key 'quality.predictor-rounds' = {config.predictor_rounds} takes {rounds} of the "
            f"{run.rounds} 'rounds'; it needs at least 1, and has to leave some."
        )
    if sum(p for name, p in config.probabilities.items() if name != "cross_image") <= 0:
        raise ConfigError(
            "Keys 'quality.p-*': one besides 'quality.p-cross-image' must be above 0, since a site "
            "may have one image only."
        )
    if config.pretrained and config.backbone != "resnet18":
        raise ConfigError(
            f"Key 'quality.pretrained' = {config.pretrained!r} is for quality.backbone = "
            f"'resnet18', given {config.backbone!r}."
        )
    if config.mode == "qar" and not anchored(run):
        raise ConfigError(_unanchored(run))
    try:
        method.check(base_run(run))
    except ConfigError as error:
        raise ConfigError(
            f"{error} ({rounds} of the run's {run.rounds} rounds train the quality predictor.)"
        ) from None


def _unanchored(run: RunConfig) -> str:
    key = f"'{run.method}.proximal'"
    has = "proximal" in type(run.method_config).model_fields
    remedy = f"Set {key} above 0" if has else f"Method {run.method!r} has no proximal term"
    return (
        "Key 'quality.mode' = 'qar': at an unlabeled site nothing but the predictor's score would "
        "be left to learn from, and the segmenter would learn masks that please the predictor and "
        f"do not fit the image. {remedy}, or use quality.mode = 'qw' or 'both'."
    )


METHOD = guide(
    replace(
        pseudo_label.METHOD,
        name="quality",
        summary="Pseudo-labels weighed by their predicted quality (Abhishek and Hamarneh 2026).",
        config=QualityConfig,
        unlabeled=WholeImageLabels,
        mixed=WholeImageLabels,
    )
)
