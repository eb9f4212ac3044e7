"""Any semi-supervised method, guided at a site: its unsupervised terms weighed by quality.

Abhishek and Hamarneh, arXiv 2606.01753, 2026. PL-QW (eqs. 7-8): a sample weighs q^gamma where the
predicted Dice q of its pseudo-label reaches a threshold, else nothing. QAR (eqs. 5-6): 1 - the
predicted Dice of the student's own mask, with the gradient through the frozen predictor. The method
knows of neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from fedssl.errors import TrainingError
from fedssl.functional.averaging import cpu_copy
from fedssl.functional.labels import decode, foreground_targets
from fedssl.functional.quality import image_quality, quality_weights
from fedssl.methods.base import LocalObjective, LocalSetup, Recipe, TrainingData
from fedssl.methods.quality_config import anchored, base_run, guide_config, normalisation
from fedssl.methods.quality_masks import snapshot_file
from fedssl.methods.quality_predictor import (
    GATE,
    PREDICTOR,
    GateTest,
    PredictorTraining,
    predictor_of,
)
from fedssl.methods.teacher import evaluating
from fedssl.types import Arrays, Download, LabeledBatch, Losses, Role, Term, UnlabeledBatch

__all__ = ["Guidance", "Guided"]

log = logging.getLogger("fedssl")


class Guidance:
    """Weighs the unsupervised terms of a step, and adds QAR, with a frozen predictor.

    Args:
        setup: the objective's surroundings; its model holds the predictor.
    """

    def __init__(self, setup: LocalSetup) -> None:
        self._setup, self._config = setup, guide_config(setup.run)
        self._predictor = predictor_of(setup.model)
        self._divide = normalisation(setup.run)
        self._quality: list[Tensor] = []
        self._weights: list[Tensor] = []

    def guide(self, losses: Losses) -> Losses:
        """Return the losses of a step with its terms guided.

        A step whose samples all weigh nothing has no terms left: an optimizer step without a
        gradient would still move the weights by its momentum. An unlabeled site skips it, and so it
        does where QAR alone is left and nothing holds the segmenter to the images.
        """
        if not losses.unsupervised:
            return losses
        terms = [] if self._config.mode == "qar" else self._weighted(losses.unsupervised)
        alone = not terms and (self._config.mode == "qw" or not anchored(self._setup.run))
        if alone and self._setup.role == Role.UNLABELED:
            return Losses()
        if self._config.mode != "qw":
            terms.append(self._regulariser(losses.unsupervised))
        return Losses(losses.supervised, terms)

    def metrics(self) -> dict[str, float]:
        """Return means over the samples of the stage."""
        if not self._quality:
            return {}
        quality, weights = torch.cat(self._quality), torch.cat(self._weights)
        return {
            "quality/mean": float(quality.mean()),
            "quality/used": float((weights > 0).float().mean()),
            "quality/reliability": float(quality.pow(self._config.gamma).mean()),
        }

    def _weighted(self, terms: Sequence[Term]) -> list[Term]:
        found = [(t, self._weight(t)) for t in terms]
        weights = [w for _, w in found if w is not None]
        if not weights:
            raise TrainingError(
                f"Method {self._setup.run.method!r} cannot be guided: none of its terms "
                f"({', '.join(t.name for t in terms)}) carries an image and its pseudo-label."
            )
        # One look at the device per step, for the reason given in `guide`.
        useful = bool(torch.cat(weights).any())
        return [t if w is None else self._scaled(t, w) for t, w in found if useful or w is None]

    def _scaled(self, term: Term, weight: Tensor) -> Term:
        denominator = term.denominator.detach()
        if self._divide == "sum_w":
            denominator = weight * denominator
        return replace(term, numerator=weight * term.numerator, denominator=denominator)

    def _weight(self, term: Term) -> Tensor | None:
        if term.image is None or term.pseudo_mask is None:
            return None
        with torch.no_grad(), evaluating(self._predictor):
            scores = self._predictor(term.image, term.pseudo_mask).float()
        quality = image_quality(scores, term.pseudo_mask)
        weights = quality_weights(
            quality, gamma=self._config.gamma, threshold=self._config.threshold
        )
        self._quality.append(quality)
        self._weights.append(weights)
        return weights

    def _regulariser(self, terms: Sequence[Term]) -> Term:
        """Return 1 - the predicted quality of the students' masks, by the scales of their terms."""
        total: Tensor | None = None
        for term in terms:
            if term.image is None or term.student_prob is None:
                continue
            with evaluating(self._predictor):
                scores = self._predictor(term.image, self._mask(term.student_prob)).float()
            part = term.scale * (1.0 - scores.mean(1))
            total = part if total is None else total + part
        if total is None:
            raise TrainingError(
                f"Method {self._setup.run.method!r} cannot be guided with QAR: none of its terms "
                f"({', '.join(t.name for t in terms)}) carries the student's probabilities. Use "
                "quality.mode = 'qw'."
            )
        return Term("qar", total, torch.ones_like(total).detach(), scale=self._config.beta_qar)

    def _mask(self, prob: Tensor) -> Tensor:
        """Return what the predictor is shown of the student: the gradient is that of `prob`."""
        if self._config.qar_mask == "soft":
            return prob
        output = self._setup.task.output
        hard = foreground_targets(decode(prob.detach(), output), prob.shape[1], output)
        return hard.to(prob) + prob - prob.detach()


class Guided(LocalObjective):
    """The objective of one stage: the base method's, or one of the predictor's.

    Args:
        setup: the surroundings; the model has a quality predictor.
        base: makes the base method's objective.
    """

    def __init__(self, setup: LocalSetup, base: Callable[[LocalSetup], LocalObjective]) -> None:
        self.setup = setup
        self._base = base
        self._guidance: Guidance | None = None
        self._ready = -1.0

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        own = {PREDICTOR: PredictorTraining, GATE: GateTest}
        if download.stage in own:
            self._stage: LocalObjective = own[download.stage](self.setup)
            self._stage.begin(download, data)
            return
        self._keep_snapshot(download)
        scores = self.setup.role != Role.LABELED and bool(download.trains)
        if scores and download.clock["quality_on"]:
            self._guidance = self._prepared(download)
        self._stage = self._base(replace(self.setup, run=base_run(self.setup.run)))
        self._stage.begin(replace(download, round=int(download.clock["quality_round"])), data)

    def _keep_snapshot(self, download: Download) -> None:
        index = int(download.clock["quality_snapshot"])
        if index >= 0 and self.setup.role != Role.UNLABELED:
            state = self.setup.model.state_dict()
            kept = {k: v for k, v in state.items() if not k.startswith(f"{PREDICTOR}.")}
            self.setup.memory.save(snapshot_file(index), cpu_copy(kept))

    def _prepared(self, download: Download) -> Guidance | None:
        """Return the guidance by the predictor that came along or was kept; None without one.

        It is sent to a site once. One that missed it says so, trains unguided, and gets it next.
        """
        version, predictor = download.clock["quality_version"], predictor_of(self.setup.model)
        if any(name.startswith(f"{PREDICTOR}.") for name in download.weights):
            kept = cpu_copy(predictor.state_dict())
            self.setup.memory.save(PREDICTOR, {**kept, "version": torch.tensor(version)})
        else:
            loaded = self.setup.memory.load(PREDICTOR) or {"version": torch.tensor(-1.0)}
            if float(loaded.pop("version")) != version:
                log.warning("Site %s has no quality predictor yet.", download.site)
                self._ready = 0.0
                return None
            predictor.load_state_dict(loaded)
        self._ready = 1.0
        return Guidance(self.setup)

    @override
    def recipe(self, parameters: Sequence[nn.Parameter]) -> Recipe | None:
        return self._stage.recipe(parameters)

    @override
    def lr_factor(self) -> float:
        return self._stage.lr_factor()

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        losses = self._stage.training_step(labeled, unlabeled)
        return losses if self._guidance is None else self._guidance.guide(losses)

    @override
    def after_step(self) -> None:
        self._stage.after_step()

    @override
    def knowledge(self) -> Arrays:
        return self._stage.knowledge()

    @override
    def metrics(self) -> Mapping[str, float]:
        found = dict(self._stage.metrics())
        if self._ready >= 0:
            found["quality/ready"] = self._ready
        return found if self._guidance is None else {**found, **self._guidance.metrics()}
