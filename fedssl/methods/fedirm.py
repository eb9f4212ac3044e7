"""FedIRM: unlabeled sites learn the relations between classes that labeled sites have found.

Liu, Yang, Dou, Heng, "Federated Semi-supervised Medical Image Classification via Inter-client
Relation Matching", MICCAI 2021 (arXiv 2106.08600).

A re-implementation in a form for segmentation, which is ours: a class's mean logit runs over its
pixels in one image, and reliability is tested per pixel. Labeled sites upload their mean relation
matrix [K, K], the coordinator averages them. Unlabeled sites: Mean Teacher, and the symmetric KL
divergence between their relations, at pixels where 11 teacher passes with dropout agree, and the
received ones. Sites are averaged uniformly. With `relation-weight = 0` it is `mean_teacher`.
Differences: our supervised loss in place of label smoothing on two views; entropy is compared with
a share of ln K; ramp and weighting by alpha are `ssl_rule`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.averaging import weighted_average
from fedssl.functional.consistency import (
    confidence,
    foreground,
    hard_label,
    probabilities,
    relative_entropy,
)
from fedssl.functional.relation import class_relations, mean_relation, relation_distance
from fedssl.methods.base import (
    ArraySpec,
    LocalSetup,
    Method,
    Payload,
    ServerSetup,
    TrainingData,
    as_exclusive,
)
from fedssl.methods.joint import JointStep
from fedssl.methods.mean_teacher import MeanTeacherConfig
from fedssl.methods.payload import HAVE_MASKS
from fedssl.methods.ssl_rule import FederatedConfig, PhasedRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, Teacher, noisy
from fedssl.methods.terms import consistency_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.roster import counts_as_labeled
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Role,
    Stage,
    Task,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "RelationConfig", "RelationMatching", "RelationRule"]


class RelationConfig(FederatedConfig, MeanTeacherConfig):
    """Keys of `fedirm`; noise, view and decay are those of `mean_teacher`."""

    weight: float = Field(15.0, ge=0, description="final lambda of the unsupervised losses")
    relation_weight: float = Field(1.0, ge=0, description="of the relations beside consistency")
    relation_temperature: float = Field(2.0, gt=0, description="divides mean logits")
    passes: int = Field(11, ge=1, description="teacher passes with dropout")
    max_entropy: float = Field(
        0.75, ge=0, le=1, description="a pixel is reliable below this share of ln K"
    )
    min_confidence: float = Field(0.3, ge=0, le=1, description="and from this probability on")
    average: Literal["uniform", "samples"] = Field("uniform", description="weights of the sites")


class RelationMatching(StudentTeacher):
    """All three roles: relations are found with masks, and matched without."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, RelationConfig)
        self._config = setup.config
        self.step = JointStep(setup)
        self.teacher = Teacher(setup, setup.config)
        classes = setup.task.num_classes
        self._sums = torch.zeros(classes, classes, device=setup.device)
        self._counts = torch.zeros(classes, device=setup.device)
        self._received: tuple[Tensor, Tensor] | None = None

    @override
    def prepare(self, download: Download, data: TrainingData) -> None:
        self.teacher.begin()
        found = download.knowledge
        if "relation" in found:
            self._received = (found["relation"], found["relation_valid"])

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        logits = self.setup.model(batch.image).logits
        temperature = self._config.relation_temperature
        rows, present = class_relations(logits.detach(), batch.label, temperature=temperature)
        self._sums += (rows * present[:, :, None]).sum(0)
        self._counts += present.sum(0)
        return self.setup.supervised(logits, batch.label)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config, output = self._config, self.setup.task.output
        weak = batch.views["weak"].image
        target = self.teacher.predict(noisy(weak, config.noise))
        logits = self.setup.model(batch.views[config.view].image).logits
        scale = self.step.scale
        terms = [
            consistency_term("consistency", logits, target, image=weak, output=output, scale=scale)
        ]
        if config.relation_weight > 0 and self._received is not None:
            terms.append(self._relation_term(logits, weak, config.relation_weight * scale))
        return terms

    def _relation_term(self, logits: Tensor, image: Tensor, scale: float) -> Term:
        config, output = self._config, self.setup.task.output
        assert self._received is not None
        mean = self.teacher.mean_of_passes(image, config.passes, noise=0.0)
        keep = relative_entropy(mean, output) < config.max_entropy
        keep = keep & (confidence(mean, output) >= config.min_confidence)
        found = class_relations(
            logits, mean.argmax(1), keep[:, 0], temperature=config.relation_temperature
        )
        distance, counts = relation_distance(found, *self._received)
        return Term(
            "relation",
            distance,
            counts,
            scale=scale,
            image=image,
            pseudo_mask=hard_label(mean, output),
            student_prob=foreground(probabilities(logits, output), output),
        )

    @override
    def knowledge(self) -> Arrays:
        self.teacher.keep()
        if self.setup.role == Role.UNLABELED:
            return {}
        mean = self._sums / self._counts.clamp_min(1)[:, None]
        return {"relation": mean, "relation_valid": self._counts > 0}


class RelationRule(PhasedRule):
    """Averages weights, and the labeled sites' relations for the next round."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, RelationConfig)
        self._config = setup.config
        self._relation: Arrays = {}

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        wants = self.phases.joint(round_) and self.setup.roster[site].role != Role.LABELED
        return self._relation if wants else {}

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        found = [u.knowledge for u in uploads if counts_as_labeled(self.setup.roster[u.site])]
        mean, known = mean_relation(
            torch.stack([k["relation"] for k in found]),
            torch.stack([k["relation_valid"] for k in found]),
        )
        self._relation = {"relation": mean, "relation_valid": known}
        shares = self.shares(round_, uploads, uniform=self._config.average == "uniform")
        return weighted_average([u.weights for u in uploads], shares)

    @override
    def state(self) -> Arrays:
        return dict(self._relation)

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._relation = dict(arrays)


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel both ways: a relation matrix and which rows are known."""
    classes = task.num_classes
    relation = {
        "relation": ArraySpec((classes, classes), always_from=HAVE_MASKS),
        "relation_valid": ArraySpec((classes,), torch.bool, HAVE_MASKS),
    }
    return Payload(down={"train": relation}, up={"train": relation})


METHOD = Method(
    name="fedirm",
    summary="Mean Teacher and relations between classes, matched across sites (Liu et al. 2021).",
    config=RelationConfig,
    server=RelationRule,
    labeled=RelationMatching,
    unlabeled=RelationMatching,
    mixed=RelationMatching,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=payload,
    check=check_warmup,
    task=as_exclusive,
)
