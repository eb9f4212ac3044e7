"""FedAvg over the sites that have labels: the lower bound, and with all sites labeled the upper.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017 (arXiv 1602.05629).

Every labeled or mixed site minimises Dice + cross-entropy on its masks; the coordinator averages
the weights by the number of labeled samples. Unlabeled sites only evaluate.

With `server-optimizer`, the coordinator takes the mean change for a gradient: FedAvgM (Hsu et al.
2019), or FedAdagrad, FedAdam and FedYogi (Reddi et al., "Adaptive Federated Optimization", ICLR
2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.functional.averaging import weighted_average
from fedssl.methods.base import LocalObjective, Method, Payload, ServerRule, ServerSetup
from fedssl.methods.server_optimizer import (
    ServerOptimizer,
    ServerOptimizerConfig,
    check_server_optimizer,
)
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.roster import counts_as_labeled
from fedssl.types import Arrays, LabeledBatch, Losses, Stage, Task, UnlabeledBatch, Upload

__all__ = ["METHOD", "FedAvgConfig", "FedAvgRule", "Supervised"]


class FedAvgConfig(ServerOptimizerConfig):
    """Keys of `fedavg`: those of the coordinator's optimizer."""


class Supervised(LocalObjective):
    """Dice + cross-entropy on the site's masks."""

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        assert labeled is not None, "the engine gives labeled sites a labeled batch"
        logits = self.setup.model(labeled.image).logits
        return Losses(self.setup.supervised(logits, labeled.label))


class FedAvgRule(ServerRule):
    """One stage per round: labeled sites train, their weights are averaged."""

    parts: ClassVar[tuple[str, ...]] = ("shared",)

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, FedAvgConfig)
        self._optimizer = ServerOptimizer(setup.config, setup.run, setup.task)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        sites = [s for s, info in self.setup.roster.items() if counts_as_labeled(info)]
        return [Stage("train", tuple(sites), trains=self.parts)]

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        average = weighted_average([u.weights for u in uploads], [u.num_labeled for u in uploads])
        return self._optimizer.step(weights, average)

    @override
    def state(self) -> Arrays:
        return self._optimizer.state()

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._optimizer.load_state(arrays)


def no_payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the payload of a method that sends weights and counts only."""
    return Payload()


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
    check=check_server_optimizer,
)
