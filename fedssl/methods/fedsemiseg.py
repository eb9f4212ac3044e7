"""FedSemiSeg: labels on which a site's model and its nearest labeled sites' models agree.

Wu, Zhang, Chen, Qin, "Federated Semi-Supervised Medical Image Segmentation via Prototype-Based
Pseudo-Labeling and Contrastive Learning", IEEE TMI 43(2):649-661, 2024.

A re-implementation. For each unlabeled site the coordinator mixes the labeled sites' models,
weights exp(cosine of foreground prototypes) normalised. The site learns, on the strong view, the
label on which its own model and that mixture agree on the weak view. Its foreground features are
contrasted with a bank of labeled prototypes of the last 5 rounds, foreground positive, background
negative, temperature 0.1. Unlabeled sites weigh by samples times rate of agreement.
Differences: prototypes are means over a site's training batches, one foreground and one background
vector per site, never one per image; features go in without a projection head; prototypes in the
bank are smoothed over rounds with 0.9.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.averaging import weighted_average
from fedssl.functional.consistency import foreground, hard_label, probabilities
from fedssl.functional.contrast import foreground_contrast, masked_means, prototype_affinity
from fedssl.functional.losses import trusted_pixels
from fedssl.methods.base import (
    ArraySpec,
    LocalSetup,
    Method,
    Payload,
    ServerSetup,
    TrainingData,
)
from fedssl.methods.joint import JointObjective, JointStep
from fedssl.methods.payload import EVERYONE
from fedssl.methods.ssl_rule import FederatedConfig, PhasedRule, check_warmup
from fedssl.methods.teacher import evaluating
from fedssl.methods.terms import pseudo_label_term
from fedssl.models import SegmentationModel, build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Role,
    SegOutput,
    Stage,
    Task,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "AgreedLabels", "AgreementConfig", "AgreementRule"]

SMOOTHING = 0.9


class AgreementConfig(FederatedConfig):
    """Keys of `fedsemiseg`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised losses")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    weight_by_trusted: bool = Field(
        True, description="weigh unlabeled sites by samples times rate of agreement"
    )
    contrast: float = Field(1.0, ge=0, description="weight of the contrast beside the labels")
    temperature: float = Field(0.1, gt=0, description="of the contrast")
    bank_rounds: int = Field(5, ge=1, description="rounds whose prototypes are kept")


class AgreedLabels(JointObjective):
    """All three roles: masks, or labels that two models agree on; prototypes of both."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, AgreementConfig)
        self._config = setup.config
        self.step = JointStep(setup)
        self._auxiliary: SegmentationModel | None = None
        self._bank: Tensor | None = None
        width = setup.model.feature_channels
        self._sums = torch.zeros(2, width, device=setup.device)
        self._images = torch.zeros(2, device=setup.device)

    @override
    def prepare(self, download: Download, data: TrainingData) -> None:
        self._auxiliary = copy.deepcopy(self.setup.model).requires_grad_(False).eval()
        mixture = {
            name.removeprefix("auxiliary/"): value
            for name, value in download.knowledge.items()
            if name.startswith("auxiliary/")
        }
        # Without a warm-up there is no labeled model yet; the received one stands in.
        self._auxiliary.load_state_dict(mixture, strict=False)
        self._bank = download.knowledge.get("bank")

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        out = self.setup.model(batch.image)
        self._count(out, batch.label > 0)
        return self.setup.supervised(out.logits, batch.label)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        output, weak = self.setup.task.output, batch.views["weak"].image
        label, agreed = self._agreement(weak)
        if not self.step.trust(trusted_pixels(agreed, output)):
            return []
        out = self.setup.model(batch.views["strong"].image)
        found = ((label != 0) & agreed).any(1)
        if self.setup.role == Role.UNLABELED:
            self._count(out, found)
        terms = [
            pseudo_label_term(
                "agreed",
                out.logits,
                label,
                agreed,
                image=weak,
                output=output,
                scale=self.step.scale,
            )
        ]
        if self._config.contrast > 0 and self._bank is not None:
            terms.append(self._contrast(out, found, label, weak))
        return terms

    @torch.no_grad()
    def _agreement(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the own model's label [B, F, *S], and where the mixture's is the same."""
        assert self._auxiliary is not None, "begin() comes first"
        output, model = self.setup.task.output, self.setup.model
        with evaluating(model):
            own = hard_label(probabilities(model(image).logits, output), output)
        other = hard_label(probabilities(self._auxiliary(image).logits, output), output)
        return own, own == other

    def _contrast(self, out: SegOutput, found: Tensor, label: Tensor, image: Tensor) -> Term:
        assert self._bank is not None
        output = self.setup.task.output
        loss, counts = foreground_contrast(
            masked_means(out.features, found), self._bank, self._config.temperature
        )
        return Term(
            "contrast",
            loss,
            counts,
            scale=self._config.contrast * self.step.scale,
            image=image,
            pseudo_mask=label,
            student_prob=foreground(probabilities(out.logits, output), output),
        )

    def _count(self, out: SegOutput, mask: Tensor) -> None:
        features = out.features.detach()
        for row, region in enumerate((mask, ~mask)):
            mean, present = masked_means(features, region)
            self._sums[row] += mean.sum(0).float()
            self._images[row] += present.sum()

    @override
    def knowledge(self) -> Arrays:
        return {"prototype": self._sums / self._images.clamp_min(1)[:, None]}


class AgreementRule(PhasedRule):
    """Mixes labeled models for each unlabeled site, and averages by agreement."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, AgreementConfig)
        self._config = setup.config
        self._models: dict[str, Arrays] = {}
        self._prototypes: Arrays = {}
        self._bank: list[Tensor] = []

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        labeled = self.setup.roster[site].role == Role.LABELED
        if labeled or not self.phases.joint(round_) or not self._models:
            return {}
        names = sorted(self._models)
        theirs = torch.stack([self._prototypes[name][0] for name in names])
        own = self._prototypes.get(site, torch.zeros_like(theirs[:1]))[0]
        mixture = weighted_average(
            [self._models[name] for name in names], prototype_affinity(own, theirs)
        )
        mixed = {f"auxiliary/{name}": value for name, value in mixture.items()}
        return {**mixed, "bank": torch.cat(self._bank)}

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        for upload in uploads:
            new = upload.knowledge["prototype"]
            old = self._prototypes.get(upload.site, new)
            self._prototypes[upload.site] = SMOOTHING * old + (1 - SMOOTHING) * new
        labeled = [u for u in uploads if u.role != Role.UNLABELED]
        self._models = {u.site: u.weights for u in labeled}
        self._bank.append(torch.stack([self._prototypes[u.site] for u in labeled]))
        self._bank = self._bank[-self._config.bank_rounds :]
        return weighted_average([u.weights for u in uploads], self.shares(round_, uploads))

    @override
    def state(self) -> Arrays:
        models = {
            f"model.{site}/{name}": value
            for site, state in self._models.items()
            for name, value in state.items()
        }
        prototypes = {f"prototype/{site}": value for site, value in self._prototypes.items()}
        bank = {f"bank/{index:03d}": value for index, value in enumerate(self._bank)}
        return {**models, **prototypes, **bank}

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._models, self._prototypes, self._bank = {}, {}, []
        for key in sorted(arrays):
            kind, _, name = key.partition("/")
            if kind == "bank":
                self._bank.append(arrays[key])
            elif kind == "prototype":
                self._prototypes[name] = arrays[key]
            else:
                site = kind.removeprefix("model.")
                self._models.setdefault(site, {})[name] = arrays[key]


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel: a mixed model and the bank down, two prototypes up."""
    width = run.model.width
    models = {
        f"auxiliary/{name}": ArraySpec(tuple(value.shape), value.dtype)
        for name, value in weights.items()
    }
    return Payload(
        down={"train": {**models, "bank": ArraySpec((None, 2, width))}},
        up={"train": {"prototype": ArraySpec((2, width), always_from=EVERYONE)}},
    )


METHOD = Method(
    name="fedsemiseg",
    summary="Labels that two models agree on, and prototypes of sites (Wu et al. 2024).",
    config=AgreementConfig,
    server=AgreementRule,
    labeled=AgreedLabels,
    unlabeled=AgreedLabels,
    mixed=AgreedLabels,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=payload,
    check=check_warmup,
)
