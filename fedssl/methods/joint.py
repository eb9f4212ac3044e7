"""A site of a semi-supervised method: masks, and after the warm-up unsupervised terms as well.

The rounds, the ramp and the average are those of `ssl_rule`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from fedssl.functional.proximal import proximal_penalty
from fedssl.functional.schedules import sigmoid_ramp
from fedssl.methods.base import LocalObjective, LocalSetup, TrainingData
from fedssl.methods.ssl_rule import SemiSupervisedConfig
from fedssl.types import Download, LabeledBatch, Losses, Role, Term, UnlabeledBatch

__all__ = ["JointObjective", "JointStep"]


class JointStep:
    """One stage at one site: the clock, the supervised loss, and what is reported.

    Args:
        setup: the objective's surroundings; its config is a `SemiSupervisedConfig`.
    """

    def __init__(self, setup: LocalSetup) -> None:
        assert isinstance(setup.config, SemiSupervisedConfig)
        self._setup, self._config = setup, setup.config
        self._since = self._ramp = self._after = 0.0
        self._steps = 0
        self._received: list[Tensor] = []
        self._trusted: list[Tensor] = []
        self.joint = False

    def begin(self, download: Download) -> None:
        """Read the coordinator's clock."""
        self.joint = download.clock["phase"] == 2
        self._since, self._ramp = download.clock["since"], download.clock["ramp"]
        self._after = download.clock["after"]

    @property
    def elapsed(self) -> float:
        """Rounds since the warm-up, with the steps of this one as a fraction."""
        return self._since + self._steps / self._setup.run.local_steps

    @property
    def scale(self) -> float:
        """The factor of an unsupervised term: lambda(t) at mixed sites, else its final value."""
        if self._setup.role == Role.UNLABELED:
            return self._config.weight
        return self._config.weight * sigmoid_ramp(self.elapsed, self._ramp)

    @property
    def lr_factor(self) -> float:
        """What carries lambda at unlabeled sites under Adam, which cancels a factor of the loss."""
        if self._setup.role != Role.UNLABELED or self._setup.run.optimizer == "sgd":
            return 1.0
        return min(1.0, self._config.weight)

    @property
    def grown(self) -> float:
        """A ramp over everything that follows the warm-up, from exp(-5) to 1."""
        return sigmoid_ramp(self.elapsed, self._after)

    def losses(
        self,
        labeled: LabeledBatch | None,
        unlabeled: UnlabeledBatch | None,
        terms: Callable[[UnlabeledBatch], Sequence[Term]],
        supervised: Callable[[LabeledBatch], Tensor] | None = None,
    ) -> Losses:
        """Return the losses of a step, and count it.

        Args:
            labeled: batch with masks.
            unlabeled: batch without; it is passed over in phase 1.
            terms: unsupervised terms of a batch; none where nothing is to be learned from it.
            supervised: loss of a labeled batch; None: that of the key `loss`.
        """
        loss = None if labeled is None else (supervised or self.supervised)(labeled)
        found = terms(unlabeled) if self.joint and unlabeled is not None else []
        if found and labeled is None and self._config.proximal > 0:
            loss = self._proximal()
        self._steps += 1
        return Losses(loss, found)

    def trust(self, gate: Tensor) -> bool:
        """Record which pixels are learned from; return whether there is any.

        One look at the device per step: a step without a gradient would still move the weights by
        its momentum, so the batch has to be skipped.
        """
        self._trusted.append((gate != 0).float().mean())
        return bool(gate.any())

    def supervised(self, batch: LabeledBatch) -> Tensor:
        """Return the loss of a labeled batch, by the key `loss`."""
        logits = self._setup.model(batch.image).logits
        return self._setup.supervised(logits, batch.label)

    def metrics(self) -> dict[str, float]:
        """Return the mean trusted share of pixels, if it was recorded."""
        if not self._trusted:
            return {}
        return {"trusted": float(torch.stack(self._trusted).mean())}

    def _proximal(self) -> Tensor:
        parameters = [p for p in self._setup.model.parameters() if p.requires_grad]
        if not self._received:
            self._received = [p.detach().clone() for p in parameters]
        return proximal_penalty(parameters, self._received, self._config.proximal)


class JointObjective(LocalObjective):
    """What a site does in both phases; the terms are a method's own.

    Attributes:
        step: the clock and the losses of a step.
    """

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        self.step = JointStep(setup)

    @abstractmethod
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        """Return the unsupervised terms of a batch in phase 2; none to skip it."""

    def supervised(self, batch: LabeledBatch) -> Tensor:
        """Return the loss with masks: by the key `loss`, unless a method has its own."""
        return self.step.supervised(batch)

    def prepare(self, download: Download, data: TrainingData) -> None:
        """Make teachers or labels; called in phase 2 where unlabeled images are trained on."""
        return None

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self.step.begin(download)
        if self.step.joint and self.setup.role != Role.LABELED and data.unlabeled:
            self.prepare(download, data)

    @override
    def lr_factor(self) -> float:
        return self.step.lr_factor

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        return self.step.losses(labeled, unlabeled, self.terms, self.supervised)

    @override
    def metrics(self) -> Mapping[str, float]:
        return self.step.metrics()
