"""FedMix: two networks label for each other the images on which they agree.

Wicaksana, Yan, Zhang, Huang, Wu, Yang, Cheng, "FedMix: Mixed Supervised Federated Learning for
Medical Image Segmentation", arXiv 2205.01840.

A re-implementation of its image-only case (no boxes, no image-level labels). Each round both
received networks label an unlabeled site's images; a case is kept if the Dice of the two labels is
at least 0.9, and each network learns the other's. Site i weighs n_i / sum n + 10 loss_i^1.5 /
sum loss^1.5, normalised, n_i its labeled samples or those it kept. Differences: warm-up on labeled
sites, where the two initial networks would agree on nothing; labels are kept per case, so a volume
is kept as a whole; Dice is the mean over foreground classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.functional.averaging import weighted_average
from fedssl.functional.consensus import loss_weights
from fedssl.functional.consistency import hard_label, probabilities
from fedssl.functional.metrics import dice
from fedssl.methods.base import LocalSetup, Method, ServerSetup, TrainingData
from fedssl.methods.cps import build_two, supervise_both
from fedssl.methods.fedavg import no_payload
from fedssl.methods.joint import JointObjective, JointStep
from fedssl.methods.ssl_rule import (
    FederatedConfig,
    PhasedRule,
    capped,
    check_warmup,
    sample_weights,
)
from fedssl.methods.terms import pseudo_label_term
from fedssl.methods.whole_case import predict_whole
from fedssl.models.parts import shared_parts
from fedssl.models.two_networks import TwoNetworks
from fedssl.types import (
    Arrays,
    Download,
    LabeledBatch,
    Role,
    Stage,
    Term,
    UnlabeledBatch,
    Upload,
)

__all__ = ["METHOD", "CrossLabels", "MixConfig", "MixRule"]


class MixConfig(FederatedConfig):
    """Keys of `fedmix`."""

    weight: float = Field(1.0, ge=0, description="final lambda of the unsupervised loss")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    weight_by_trusted: bool = Field(True, description="count only the samples that were kept")
    agreement: float = Field(
        0.9, ge=0, le=1.01, description="Dice from which on a case is kept; 1.01 keeps none"
    )
    loss_share: float = Field(10.0, ge=0, description="weight of the losses in a site's weight")
    loss_power: float = Field(1.5, ge=0, description="exponent of the losses")


class CrossLabels(JointObjective):
    """All three roles: masks for both networks, and each other's labels where they agree."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, MixConfig)
        self._config = setup.config
        self.step = JointStep(setup)
        self._stats: dict[str, float] = {}

    @override
    def prepare(self, download: Download, data: TrainingData) -> None:
        kept = []
        for case in data.unlabeled:
            first, second = self._labels(data.image(case))
            agreement = np.mean(
                [dice(a != 0, b != 0) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
            )
            if agreement >= self._config.agreement:
                kept.append(case)
            # Where a moved view looks beyond its image the trust is 0, and nothing is learned.
            data.store(case, pseudo=first, other=second, trust=torch.ones_like(first))
        data.keep_only(kept)
        share = len(kept) / len(data.unlabeled)
        self._stats = {"trusted": share, "cases_kept": float(len(kept))}

    def _labels(self, image: Tensor) -> list[Tensor]:
        """Return both networks' labels [F, *S] uint8 of a case, in eval mode."""
        setup, output = self.setup, self.setup.task.output
        networks = cast("TwoNetworks", setup.model)
        networks.eval()
        probs = predict_whole(
            setup, lambda x: [probabilities(z, output) for z in networks.both(x)], image
        )
        return [hard_label(p[None], output)[0].cpu() for p in probs]

    @override
    def supervised(self, batch: LabeledBatch) -> Tensor:
        return supervise_both(self.setup, batch)

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        image = batch.views["weak"].image
        logits = cast("TwoNetworks", self.setup.model).both(image)
        labels = (batch.stored["other"], batch.stored["pseudo"])
        return [
            pseudo_label_term(
                f"cross-{index}",
                z,
                label,
                batch.stored["trust"],
                image=image,
                output=self.setup.task.output,
                scale=self.step.scale,
                dice_weight=1.0,
            )
            for index, (z, label) in enumerate(zip(logits, labels, strict=True), 1)
        ]

    @override
    def metrics(self) -> Mapping[str, float]:
        return self._stats


class MixRule(PhasedRule):
    """The average by samples and losses."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, MixConfig)
        self._config = setup.config

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        config = self._config
        counts = sample_weights(uploads, 1.0, by_trusted=config.weight_by_trusted)
        losses = [max(u.metrics.get("loss", 0.0), 0.0) for u in uploads]
        shares = loss_weights(counts, losses, beta=config.loss_share, gamma=config.loss_power)
        alpha = self.alpha(round_)
        factors = [alpha if u.role == Role.UNLABELED else 1.0 for u in uploads]
        mixed = [f * s for f, s in zip(factors, shares, strict=True)]
        return weighted_average(
            [u.weights for u in uploads], capped(uploads, mixed, config.unlabeled_share)
        )


METHOD = Method(
    name="fedmix",
    summary="Two networks label for each other where they agree (Wicaksana et al. 2022).",
    config=MixConfig,
    server=MixRule,
    labeled=CrossLabels,
    unlabeled=CrossLabels,
    mixed=CrossLabels,
    build_model=build_two,
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
