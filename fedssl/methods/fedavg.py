"""FedAvg over the sites that have labels: the lower bound, and with all sites labeled the upper.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (arXiv 1602.05629).

Every labeled or mixed site minimises Dice + cross-entropy on its masks; the coordinator averages
the weights by the number of labeled samples. Unlabeled sites only evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from fedssl.config import MethodConfig, RunConfig
from fedssl.functional.averaging import weighted_average
from fedssl.functional.losses import supervised_loss
from fedssl.methods.base import LocalObjective, Method, Payload, ServerRule
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.roster import counts_as_labeled
from fedssl.types import Arrays, LabeledBatch, Losses, Stage, Task, UnlabeledBatch, Upload

__all__ = ["METHOD", "FedAvgConfig", "FedAvgRule", "Supervised"]


class FedAvgConfig(MethodConfig):
    """FedAvg has no keys of its own."""


class Supervised(LocalObjective):
    """Dice + cross-entropy on the site's masks."""

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        assert labeled is not None, "the engine gives labeled sites a labeled batch"
        logits = self.setup.model(labeled.image).logits
        return Losses(supervised_loss(logits, labeled.label, self.setup.task.output))


class FedAvgRule(ServerRule):
    """One stage per round: labeled sites train, their weights are averaged."""

    parts: ClassVar[tuple[str, ...]] = ("shared",)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        sites = [s for s, info in self.setup.roster.items() if counts_as_labeled(info)]
        return [Stage("train", tuple(sites), trains=self.parts)]

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        return weighted_average([u.weights for u in uploads], [u.num_labeled for u in uploads])


def no_payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the payload of a method that sends weights and counts only."""
    return Payload()


def accept(run: RunConfig) -> None:
    """Accept every configuration."""


METHOD = Method(
    name="fedavg",
    summary="Supervised FedAvg over labeled sites: lower bound; all sites labeled: upper bound.",
    config=FedAvgConfig,
    server=FedAvgRule,
    labeled=Supervised,
    unlabeled=None,
    mixed=None,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=accept,
)
