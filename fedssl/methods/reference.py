"""Reference-guided pseudo-labels: an unlabeled pixel takes the label of the nearest labeled one.

Seibold, Reiss, Kleesiek, Stiefelhagen, "Reference-guided pseudo-label generation for medical
semantic segmentation", AAAI 2022 (arXiv 2112.00735).

Re-derived from the abstract and the method figure; no code is public, and no number of the paper is
claimed. At a mixed site the references are a pool of labeled samples, as published: cross entropy
of the weak view with the nearest reference's label, weighted by an entropy over the nearest
distance to each class, and of the strong view with the weak view's prediction. The federation is
ours: labeled sites send banks of cluster centres, made with the weights of round t, and an
unlabeled site labels its images with the same weights (the anchor), once per round. `stale`: the
bank travels with the update and is used a round later. `sync`: a stage of its own before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor
from typing_extensions import override

from fedssl.functional.consistency import confidence, hard_label, per_class
from fedssl.functional.labels import foreground_targets
from fedssl.functional.losses import supervised_loss
from fedssl.methods.base import (
    LocalObjective,
    LocalSetup,
    Method,
    ServerRule,
    ServerSetup,
    TrainingData,
    as_exclusive,
)
from fedssl.methods.joint import JointStep
from fedssl.methods.reference_bank import bank_size, collect, pack_bank, payload, warn_if_small
from fedssl.methods.reference_config import ReferenceConfig, check
from fedssl.methods.reference_labels import CachedLabels, pool_proposal, stored_proposal, surer
from fedssl.methods.reference_sources import build_bank
from fedssl.methods.retrieval import Proposal
from fedssl.methods.ssl_rule import WarmupRule
from fedssl.methods.terms import pseudo_label_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.roster import counts_as_labeled
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Losses,
    Role,
    Stage,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "ReferenceConfig", "ReferenceGuided", "ReferenceRule"]


class ReferenceGuided(LocalObjective):
    """All three roles: masks, references for who has none, and banks from who has masks."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, ReferenceConfig)
        self._config = setup.config
        self._step = JointStep(setup)
        self._labels = CachedLabels(setup, setup.config)
        self._bank: Arrays = {}

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self._step.begin(download)
        if download.stage == "anchor":
            self._labels.remember(download)
            return
        builds = download.stage == "bank" or download.clock["build"] == 1
        role = self.setup.role
        if builds and role != Role.UNLABELED:
            self._bank = pack_bank(
                build_bank(self.setup, self._config, data, download.round), download.round
            )
        if download.stage == "bank" or role == Role.LABELED:
            return
        if not self._step.joint:
            data.keep_only([])  # a mixed site warms up on its masks
        elif role == Role.UNLABELED or self._config.mixed_from != "pool":
            self._labels.make(download, data)
        if builds:
            self._labels.remember(download)

    @override
    def lr_factor(self) -> float:
        return self._step.lr_factor

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        return self._step.losses(
            labeled, unlabeled, lambda batch: self._terms(labeled, batch), self._supervised
        )

    def _supervised(self, batch: LabeledBatch) -> Tensor:
        logits, weight = self.setup.model(batch.image).logits, self._config.dice_weight
        return supervised_loss(logits, batch.label, self.setup.task.output, dice_weight=weight)

    def _terms(self, labeled: LabeledBatch | None, batch: UnlabeledBatch) -> list[Term]:
        """Return the terms of a batch; one that no pixel counts in is left out."""
        config = self._config
        weak, strong = batch.views["weak"].image, batch.views["strong"].image
        proposal = self._proposal(labeled, batch) if config.lam_ref > 0 else None
        views = [weak, strong] if config.lam_con > 0 else [weak]
        if proposal is None and config.lam_con == 0:
            return []
        logits = self.setup.model(torch.cat(views)).logits.split(len(weak))
        terms = []
        if proposal is not None:
            terms.append(self._reference_term(logits[0].float(), proposal, weak))
        if config.lam_con > 0:
            terms.append(self._consistency_term(logits[0], logits[1], weak))
        # One look at the device per step: a step without a gradient would still move the weights
        # by its momentum. Not "> 0", which would hide a loss that is not a number.
        counts = torch.stack([term.numerator.detach().sum() != 0 for term in terms]).tolist()
        return [term for term, some in zip(terms, counts, strict=True) if some]

    def _proposal(self, labeled: LabeledBatch | None, batch: UnlabeledBatch) -> Proposal | None:
        cached = stored_proposal(batch) if self._labels.ready else None
        if labeled is None or self._config.mixed_from == "bank":
            return cached
        weak = batch.views["weak"].image
        return surer(pool_proposal(self.setup, self._config, labeled, weak), cached)

    def _reference_term(self, logits: Tensor, proposal: Proposal, image: Tensor) -> Term:
        target, weight = proposal.label, proposal.weight
        soft = target if proposal.soft is None else proposal.soft
        loss = nnf.cross_entropy(logits, soft, reduction="none")
        counted = weight if self._config.divide_by == "weights" else torch.ones_like(weight)
        task = self.setup.task
        mask = foreground_targets(target, task.num_classes - 1, task.output)
        return Term(
            "reference",
            (weight * loss).flatten(1).sum(1),
            counted.flatten(1).sum(1),
            scale=self._config.lam_ref * self._step.scale,
            image=image,
            pseudo_mask=mask.to(torch.uint8),
            student_prob=torch.softmax(logits, 1)[:, 1:],
        )

    def _consistency_term(self, weak: Tensor, strong: Tensor, image: Tensor) -> Term:
        output = self.setup.task.output
        prob = torch.softmax(weak.detach().float(), 1)
        label = hard_label(prob, output)
        counts = confidence(prob, output) >= self._config.con_threshold
        return pseudo_label_term(
            "consistency",
            strong,
            label,
            per_class(counts, label.shape[1]),
            image=image,
            output=output,
            scale=self._config.lam_con * self._step.scale,
            over="all",
        )

    @override
    def knowledge(self) -> Arrays:
        return self._bank

    @override
    def metrics(self) -> Mapping[str, float]:
        found = {"bank_vectors": float(bank_size(self._bank))} if self._bank else {}
        return found if self.setup.role == Role.LABELED else {**found, **self._labels.metrics()}


class ReferenceRule(ServerRule):
    """Collects banks and passes their union on; averages with alpha(t) and mean label weights."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        config = setup.config
        assert isinstance(config, ReferenceConfig)
        self._config, self._rounds = config, setup.run.rounds
        self._average = WarmupRule(setup)
        self._warmup = self._average.phases.warmup
        roster = setup.roster
        self._labeled = tuple(s for s in roster if counts_as_labeled(roster[s]))
        self._unlabeled = tuple(s for s in roster if s not in self._labeled)
        self._users = set(self._unlabeled)
        if config.mixed_from != "pool":
            self._users |= {s for s in roster if roster[s].role == Role.MIXED}
        self._bank: Arrays = {}

    def _builds(self, round_: int) -> bool:
        """Whether banks come with this round's updates, for the next round."""
        used = self._warmup - 1 <= round_ < self._rounds - 1
        return self._config.protocol == "stale" and bool(self._users) and used

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        stages = list(self._average.plan(round_))
        if self._config.protocol == "sync" and round_ >= self._warmup and self._users:
            stages.insert(0, Stage("bank", self._labeled, sends=("shared",)))
        if self._builds(round_) and round_ < self._warmup and self._unlabeled:
            # Sites that do not train yet need the weights that the first bank is made with.
            stages.insert(0, Stage("anchor", self._unlabeled, sends=("shared",)))
        return stages

    @override
    def clock(self, round_: int) -> Mapping[str, float]:
        return {**self._average.clock(round_), "build": float(self._builds(round_))}

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        joint = round_ >= self._warmup
        return self._bank if joint and stage.name == "train" and site in self._users else {}

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        if stage.name == "bank" or (stage.name == "train" and self._builds(round_)):
            before, self._bank = self._bank, self._collect(round_, uploads)
            warn_if_small(self._bank, before, self._config.k)
        return self._average.merge(round_, stage, weights, uploads) if stage.trains else {}

    def _collect(self, round_: int, uploads: Sequence[Upload]) -> Arrays:
        config, classes = self._config, self.setup.task.classes
        return collect(
            uploads,
            round_,
            classes=classes,
            previous=self._bank,
            largest=config.background_centroids + (len(classes) - 1) * config.centroids,
            k_max=config.k_max,
            by_site=config.bank_select == "cosine",
        )

    @override
    def state(self) -> Arrays:
        return self._bank

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._bank = arrays

    @override
    def metrics(self) -> Mapping[str, float]:
        return {**self._average.metrics(), "bank_vectors": float(bank_size(self._bank))}


METHOD = Method(
    name="reference",
    summary="Labels of the nearest labeled features, here or elsewhere (Seibold et al. 2022).",
    config=ReferenceConfig,
    server=ReferenceRule,
    labeled=ReferenceGuided,
    unlabeled=ReferenceGuided,
    mixed=ReferenceGuided,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=payload,
    check=check,
    task=as_exclusive,
)
