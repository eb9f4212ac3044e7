"""What the client-side baselines share: a supervised warm-up, then every site does what it can.

Phase 1: labeled and mixed sites train on their masks. Phase 2: labeled sites go on, unlabeled
sites minimise the method's unsupervised terms, mixed sites the sum of both.

The ramp r(t) = exp(-5 (1 - t / ramp)^2) counts rounds since the warm-up. The coordinator sends the
count, so no round starts it anew. Beside a supervised loss, at a mixed site, it scales the
unsupervised terms: lambda(t) = weight * r(t). Where a term is the whole loss, at an unlabeled site,
Adam would cancel such a factor; there `weight`, if below 1, is a factor of the learning rate
(`joint.JointStep.lr_factor`), and the ramp acts as the weight alpha(t) = unlabeled-weight * r(t) of
the site's samples in the average:

    theta = (sum_L n_i theta_i + alpha sum_U n_j theta_j) / (sum_L n_i + alpha sum_U n_j)

where alpha is lowered until unlabeled sites hold no more than `unlabeled-share`. A mixed site
counts with the labeled ones, by its labeled samples. This scheme is ours, not any baseline's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field
from typing_extensions import override

from fedssl.config import MethodConfig, RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.averaging import weighted_average
from fedssl.functional.schedules import sigmoid_ramp
from fedssl.methods.base import ServerRule, ServerSetup
from fedssl.roster import counts_as_labeled
from fedssl.types import Arrays, Role, SiteInfo, Stage, Upload

__all__ = [
    "FederatedConfig",
    "GuardConfig",
    "PhasedRule",
    "Phases",
    "SemiSupervisedConfig",
    "WarmupRule",
    "capped",
    "check_warmup",
    "learned_nothing",
    "sample_weights",
]


class GuardConfig(MethodConfig):
    """Keys that keep sites without masks from carrying the average away."""

    unlabeled_weight: float = Field(
        1.0, ge=0, description="final weight alpha of an unlabeled site's sample in the average"
    )
    unlabeled_share: float = Field(
        0.3, gt=0, le=1, description="of the average, at most for unlabeled sites together"
    )
    proximal: float = Field(0.0, ge=0, description="FedProx mu at unlabeled sites")


class SemiSupervisedConfig(GuardConfig):
    """Keys that every client-side baseline has."""

    warmup_rounds: int = Field(-1, ge=-1, description="supervised rounds; -1 is rounds / 3")
    ramp_rounds: int = Field(-1, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    weight: float = Field(0.1, ge=0, description="final lambda of the unsupervised loss")
    weight_by_trusted: bool = Field(
        False, description="weigh unlabeled sites by samples times their trusted share of pixels"
    )


class FederatedConfig(SemiSupervisedConfig):
    """Keys of methods that were published for a federation: their own weights are not cut."""

    unlabeled_share: float = Field(
        1.0, gt=0, le=1, description="of the average, at most for unlabeled sites together"
    )


@dataclass(frozen=True, slots=True)
class Phases:
    """Length of the warm-up, of the ramp, and of what follows the warm-up, in rounds."""

    warmup: int
    ramp: int
    after: int

    @staticmethod
    def of(config: SemiSupervisedConfig, rounds: int) -> Phases:
        """Return the phases of a run; -1 stands for a third and a fifth of its rounds."""
        warmup = rounds // 3 if config.warmup_rounds < 0 else config.warmup_rounds
        ramp = rounds // 5 if config.ramp_rounds < 0 else config.ramp_rounds
        return Phases(warmup, ramp, max(rounds - warmup, 0))

    def joint(self, round_: int) -> bool:
        """Whether unlabeled images are used in this round."""
        return round_ >= self.warmup

    def clock(self, round_: int) -> dict[str, float]:
        """Return what sites need: the phase, rounds since the warm-up, lengths in rounds."""
        return {
            "phase": 2.0 if self.joint(round_) else 1.0,
            "since": float(round_ - self.warmup),
            "ramp": float(self.ramp),
            "after": float(self.after),
        }

    def grown(self, round_: int) -> float:
        """Return r(t) at the end of a round, in [0, 1]; 0 in the warm-up."""
        if not self.joint(round_):
            return 0.0
        return sigmoid_ramp(round_ - self.warmup + 1, self.ramp)

    def stage(self, round_: int, roster: Mapping[str, SiteInfo]) -> Stage:
        """Return the round's training stage: labeled and mixed sites, later all."""
        sites = [s for s, info in roster.items() if self.joint(round_) or counts_as_labeled(info)]
        return Stage("train", tuple(sites), trains=("shared",))


def check_warmup(run: RunConfig) -> None:
    """Raise `ConfigError` where the warm-up leaves no round for the unlabeled images."""
    config = run.method_config
    assert isinstance(config, SemiSupervisedConfig)
    if Phases.of(config, run.rounds).warmup >= run.rounds:
        raise ConfigError(
            f"Key '{run.method}.warmup-rounds' = {config.warmup_rounds} leaves no round for the "
            f"unlabeled images, 'rounds' = {run.rounds}. Lower the first or raise the second."
        )


def sample_weights(
    uploads: Sequence[Upload], alpha: float, *, by_trusted: bool = False, uniform: bool = False
) -> list[float]:
    """Return each upload's weight: labeled samples, or alpha times an unlabeled site's samples.

    An unlabeled site that trusted no pixel or skipped every step has learned nothing and weighs
    nothing; with it, the received weights would dilute what others learned.

    Args:
        uploads: of one stage.
        alpha: at least 0.
        by_trusted: multiply by the `trusted` share in the site's metrics, where it reports one.
        uniform: every site counts as one sample.
    """
    weights = []
    for upload in uploads:
        labeled = upload.role != Role.UNLABELED
        samples = 1 if uniform else upload.num_labeled if labeled else upload.num_examples
        weights.append(samples * (1.0 if labeled else alpha * _share(upload, by_trusted)))
    return weights


def capped(uploads: Sequence[Upload], weights: Sequence[float], share: float) -> list[float]:
    """Return weights where unlabeled sites together hold at most a share of the sum.

    Among themselves they keep their proportions. Without a labeled or mixed upload that has
    weight, nothing changes.

    Args:
        uploads: of one stage.
        weights: one per upload, at least 0.
        share: in (0, 1]; 1 leaves the weights as they are.
    """
    unlabeled = [upload.role == Role.UNLABELED for upload in uploads]
    theirs = math.fsum(w for w, u in zip(weights, unlabeled, strict=True) if u)
    ours = math.fsum(w for w, u in zip(weights, unlabeled, strict=True) if not u)
    if share == 1 or ours == 0 or theirs * (1 - share) <= ours * share:
        return list(weights)
    factor = ours * share / (1 - share) / theirs
    return [w * factor if u else w for w, u in zip(weights, unlabeled, strict=True)]


def learned_nothing(upload: Upload) -> bool:
    """Whether a site skipped every step of a stage: its weights are those that it received."""
    return upload.metrics.get("steps_skipped", 0.0) > 0 and "loss" not in upload.metrics


def _share(upload: Upload, by_trusted: bool) -> float:
    if learned_nothing(upload):
        return 0.0
    # A share, whatever a site reports: none can weigh more than its samples.
    trusted = min(max(upload.metrics.get("trusted", 1.0), 0.0), 1.0)
    return trusted if by_trusted else float(trusted > 0)


class PhasedRule(ServerRule):
    """Plan and clock of a warm-up and a joint phase; the merge is a method's own."""

    @property
    def phases(self) -> Phases:
        """The phases of this run."""
        return Phases.of(self.common, self.setup.run.rounds)

    @property
    def common(self) -> SemiSupervisedConfig:
        """The keys that all of these methods have."""
        assert isinstance(self.setup.config, SemiSupervisedConfig)
        return self.setup.config

    def alpha(self, round_: int) -> float:
        """Return what an unlabeled site's sample weighs at the end of a round."""
        return self.common.unlabeled_weight * self.phases.grown(round_)

    def shares(
        self, round_: int, uploads: Sequence[Upload], *, uniform: bool = False
    ) -> list[float]:
        """Return each upload's weight in the average of a round; see `sample_weights`."""
        by_trusted, alpha = self.common.weight_by_trusted, self.alpha(round_)
        weights = sample_weights(uploads, alpha, by_trusted=by_trusted, uniform=uniform)
        return capped(uploads, weights, self.common.unlabeled_share)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        return [self.phases.stage(round_, self.setup.roster)]

    @override
    def clock(self, round_: int) -> Mapping[str, float]:
        return self.phases.clock(round_)


class WarmupRule(PhasedRule):
    """The average of all sites' weights, unlabeled sites by alpha(t)."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        self._alpha = 0.0

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        self._alpha = self.alpha(round_)
        return weighted_average([u.weights for u in uploads], self.shares(round_, uploads))

    @override
    def metrics(self) -> Mapping[str, float]:
        return {"alpha": self._alpha}
