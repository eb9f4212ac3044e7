"""FedAvg with a proximal term that keeps each site near the received weights.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks",
MLSys 2020 (arXiv 1812.06127).

Every labeled or mixed site minimises its supervised loss + mu/2 ||w - w_received||^2; the
coordinator averages as in FedAvg. Difference: all sites do the same number of steps.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from fedssl.functional.proximal import proximal_penalty
from fedssl.methods.base import LocalObjective, LocalSetup, Method
from fedssl.methods.fedavg import FedAvgConfig, FedAvgRule, no_payload
from fedssl.methods.server_optimizer import check_server_optimizer
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.types import LabeledBatch, Losses, UnlabeledBatch

__all__ = ["METHOD", "FedProxConfig", "Proximal"]


class FedProxConfig(FedAvgConfig):
    """Keys of `fedprox`; those of the coordinator are FedAvg's."""

    mu: float = Field(0.01, ge=0, description="strength of the pull to the received weights")


class Proximal(LocalObjective):
    """Dice + cross-entropy on the site's masks, and the proximal term."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, FedProxConfig)
        self._mu = setup.config.mu
        self._received: list[Tensor] = []

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        assert labeled is not None, "the engine gives labeled sites a labeled batch"
        model = self.setup.model
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._received:
            self._received = [p.detach().clone() for p in parameters]
        loss = self.setup.supervised(model(labeled.image).logits, labeled.label)
        return Losses(loss + proximal_penalty(parameters, self._received, self._mu))


METHOD = Method(
    name="fedprox",
    summary="FedAvg with a proximal term at the labeled sites (Li et al. 2020).",
    config=FedProxConfig,
    server=FedAvgRule,
    labeled=Proximal,
    unlabeled=None,
    mixed=None,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_server_optimizer,
)
