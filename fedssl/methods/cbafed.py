"""CBAFed: fixed pseudo-labels with thresholds that let rare classes through.

Li, Li, Wang, "Class Balanced Adaptive Pseudo Labeling for Federated Semi-Supervised Learning",
CVPR 2023.

A re-implementation in a form for segmentation, which is ours: pixels in place of images. Each
round an unlabeled site labels its whole set once with the received model and trains on it. The
threshold of class c is p_c K / 10 + 0.84 - std(p), at most 0.95, p the class shares of all true
and selected labels; below it, a second class with p < 0.03 is taken. Unlabeled sites weigh by the
pixels they selected. Every 5 rounds the global model is averaged with that of 5 rounds before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.averaging import blend, cpu_copy, weighted_average
from fedssl.functional.balancing import select_balanced
from fedssl.functional.consistency import per_class, probabilities
from fedssl.functional.labels import foreground_targets
from fedssl.methods.base import (
    ArraySpec,
    LocalSetup,
    Method,
    Payload,
    ServerSetup,
    TrainingData,
    as_exclusive,
)
from fedssl.methods.joint import JointObjective, JointStep
from fedssl.methods.payload import EVERYONE
from fedssl.methods.ssl_rule import FederatedConfig, PhasedRule, check_warmup
from fedssl.methods.terms import pseudo_label_term
from fedssl.methods.whole_case import predict_whole
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import (
    Arrays,
    Download,
    Role,
    Stage,
    Task,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "BalancedConfig", "BalancedLabels", "BalancedRule"]


class BalancedConfig(FederatedConfig):
    """Keys of `cbafed`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    weight_by_trusted: bool = Field(
        True, description="weigh unlabeled sites by samples times their selected share of pixels"
    )
    cap: float = Field(0.95, ge=0, le=1, description="largest threshold")
    floor: float = Field(0.0, ge=0, le=1, description="smallest threshold; 0 is as published")
    tail: float = Field(0.03, ge=0, le=1, description="share below which a class is rare")
    view: Literal["weak", "strong"] = Field("weak", description="what the student sees")
    residual: int = Field(5, ge=0, description="rounds between averages with the past; 0 never")


class BalancedLabels(JointObjective):
    """All three roles: masks where there are any, selected labels where there are none."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, BalancedConfig)
        self._config = setup.config
        self.step = JointStep(setup)
        self._histogram = torch.zeros(setup.task.num_classes, dtype=torch.float64)
        self._stats: dict[str, float] = {}

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self.step.begin(download)
        for case in data.labeled:
            self._count(data.label(case))
        if self.step.joint and self.setup.role != Role.LABELED and data.unlabeled:
            self._label(data, download.knowledge["class_share"])

    def _count(self, label: Tensor) -> None:
        counts = torch.bincount(label.flatten().cpu(), minlength=len(self._histogram))
        self._histogram += counts.double()

    def _label(self, data: TrainingData, share: Tensor) -> None:
        """Store `pseudo` and `trust` of every unlabeled case, and train where any pixel counts."""
        kept, selected, pixels = [], 0, 0
        for case in data.unlabeled:
            found = select_balanced(
                self._predict(data.image(case))[None],
                share,
                cap=self._config.cap,
                tail=self._config.tail,
                floor=self._config.floor,
            )
            classes = self.setup.task.num_classes - 1
            pseudo = foreground_targets(found.label, classes, self.setup.task.output)[0]
            trust = per_class(found.keep[:, None], classes)[0]
            data.store(case, pseudo=pseudo.to(torch.uint8), trust=trust.to(torch.uint8))
            self._count(found.label[found.keep])
            count = int(found.keep.sum())
            kept += [case] if count else []
            selected, pixels = selected + count, pixels + found.keep.numel()
        data.keep_only(kept)
        self._stats = {"trusted": selected / max(pixels, 1), "cases_kept": float(len(kept))}

    def _predict(self, image: Tensor) -> Tensor:
        """Return the received model's probabilities [K, *S] of a case, in eval mode."""
        setup = self.setup
        setup.model.eval()
        (prob,) = predict_whole(
            setup, lambda x: [probabilities(setup.model(x).logits, setup.task.output)], image
        )
        return prob

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        pseudo, trust = batch.stored["pseudo"], batch.stored["trust"]
        if not bool(trust.any()):
            return []
        return [
            pseudo_label_term(
                "pseudo",
                self.setup.model(batch.views[self._config.view].image).logits,
                pseudo,
                trust,
                image=batch.views["weak"].image,
                output=self.setup.task.output,
                scale=self.step.scale,
            )
        ]

    @override
    def knowledge(self) -> Arrays:
        return {"class_count": self._histogram}

    @override
    def metrics(self) -> Mapping[str, float]:
        return self._stats


class BalancedRule(PhasedRule):
    """Averages by selected pixels, pools class counts, and looks back every few rounds."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, BalancedConfig)
        self._config = setup.config
        self._counts: Arrays = {}
        self._past: Arrays = {}

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        if not self.phases.joint(round_) or self.setup.roster[site].role == Role.LABELED:
            return {}
        classes = self.setup.task.num_classes
        if not self._counts:  # no warm-up: nothing is known of the classes yet
            return {"class_share": torch.full((classes,), 1 / classes, dtype=torch.float64)}
        total = torch.stack(list(self._counts.values())).sum(0)
        return {"class_share": total / total.sum()}

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        self._counts |= {u.site: u.knowledge["class_count"] for u in uploads}
        merged = weighted_average([u.weights for u in uploads], self.shares(round_, uploads))
        return self._with_past(round_, weights, merged)

    def _with_past(self, round_: int, before: Arrays, merged: Arrays) -> Arrays:
        """Return the mean with the model of `residual` rounds before, when it is time."""
        done, period = round_ - self.phases.warmup + 1, self._config.residual
        if period == 0 or done < 1:
            return merged
        if done == 1:
            self._past = cpu_copy({name: before[name] for name in merged})
        if done % period == 0:
            merged = blend(merged, self._past, 0.5)
            self._past = merged
        return merged

    @override
    def state(self) -> Arrays:
        counts = {f"count/{site}": value for site, value in self._counts.items()}
        return counts | {f"past/{name}": value for name, value in self._past.items()}

    @override
    def load_state(self, arrays: Arrays) -> None:
        parts: dict[str, Arrays] = {"count": {}, "past": {}}
        for key, value in arrays.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = value
        self._counts, self._past = parts["count"], parts["past"]


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel: class counts up, class shares down."""
    spec = ArraySpec((task.num_classes,), torch.float64, EVERYONE)
    return Payload(down={"train": {"class_share": spec}}, up={"train": {"class_count": spec}})


METHOD = Method(
    name="cbafed",
    summary="Fixed pseudo-labels, thresholds that let rare classes through (Li et al. 2023).",
    config=BalancedConfig,
    server=BalancedRule,
    labeled=BalancedLabels,
    unlabeled=BalancedLabels,
    mixed=BalancedLabels,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=payload,
    check=check_warmup,
    task=as_exclusive,
)
