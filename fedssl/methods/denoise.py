"""Federated pseudo-labels, denoised: labeled sites teach, unlabeled sites learn what they trust.

Qiu et al., "Federated Semi-Supervised Learning for Medical Image Segmentation via Pseudo-Label
Denoising", IEEE JBHI 27(10):4672-4683, 2023. The denoiser is that of Chen et al.,
"Source-Free Domain Adaptive Fundus Image Segmentation with Denoised Pseudo-Labeling" (DPL),
MICCAI 2021.

A re-implementation from the abstract and public notes, not verified against the authors' code.
Phase 1: FedAvg over labeled sites. Phase 2: every `refresh` rounds each unlabeled site labels its
images with the received model and keeps the pixels that pass an uncertainty and a prototype test;
labeled sites train on masks, unlabeled ones on trusted pixels. The coordinator blends the averages
of the two groups, mu * labeled + (1 - mu) * unlabeled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from typing_extensions import override

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.averaging import blend, distance, weighted_average
from fedssl.functional.denoising import PrototypeSums
from fedssl.functional.labels import foreground_probabilities
from fedssl.functional.losses import (
    masked_pixel_loss,
    masked_soft_dice,
    trusted_pixels,
)
from fedssl.functional.schedules import linear_ramp
from fedssl.methods.base import (
    LocalObjective,
    LocalSetup,
    Method,
    ServerRule,
    ServerSetup,
    TrainingData,
)
from fedssl.methods.clock import check_warmup, is_refresh, refresh_period, warmup_rounds
from fedssl.methods.denoise_config import DenoiseConfig, warn_of_thresholds
from fedssl.methods.extras import (
    foreground_of,
    pack_teachers,
    payload,
    pooled_prototypes,
    pooled_share,
    received_prototypes,
    sums_to_arrays,
    unpack_teachers,
)
from fedssl.methods.relabel import Relabeler
from fedssl.methods.ssl_rule import learned_nothing
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

__all__ = ["METHOD", "DenoiseConfig", "DenoiseRule", "PseudoLabels"]


def check(run: RunConfig) -> None:
    """Raise `ConfigError` where phase 2 has no round, or pseudo-labels no loss."""
    config = run.method_config
    assert isinstance(config, DenoiseConfig)
    check_warmup("denoise", config.warmup_rounds, run.rounds)
    if config.ce_weight == config.dice_weight == 0:
        raise ConfigError(
            "Keys 'denoise.ce-weight' and 'denoise.dice-weight' are both 0, so nothing is learned "
            "from pseudo-labels. Set one of them to 1, or method = 'fedavg'."
        )


class PseudoLabels(LocalObjective):
    """All three roles: masks where there are any, trusted pseudo-labels where there are none."""

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, DenoiseConfig)
        self._config = setup.config
        self._stats: dict[str, float] = {}
        self._sums: PrototypeSums | None = None
        self._count: Tensor | None = None

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        if download.clock.get("count") and data.labeled and download.stage == "train":
            self._count = foreground_of(data, self.setup.task)
        relabeler = Relabeler(self._config, self.setup, unpack_teachers(download.knowledge))
        if download.stage == "prototypes":
            self._sums = relabeler.labeled_sums(data)
        elif data.unlabeled and download.clock["phase"] == 1:
            data.keep_only([])  # a mixed site warms up on its masks
        elif data.unlabeled and self.setup.role != Role.LABELED:
            retained = self._retained(relabeler, download, data)
            share = retained.mean(1)
            kept = (share > 0) & (share >= self._config.min_retained)
            data.keep_only([c for c, keep in zip(data.unlabeled, kept, strict=True) if keep])
            self._stats = {"retained": float(retained.mean()), "cases_kept": float(kept.sum())}

    def _retained(self, relabeler: Relabeler, download: Download, data: TrainingData) -> Tensor:
        """Return the retained fractions [cases, F], after labeling anew if it is time."""
        stored = self.setup.memory.load("retained")
        whole = all({"pseudo", "trust"} <= data.stored_maps(c).keys() for c in data.unlabeled)
        # A site that joins late, or lost its state, has nothing stored; it labels with what it
        # was sent.
        if not download.clock["refresh"] and stored is not None and whole:
            return stored["fraction"]
        retained = relabeler.relabel(
            data,
            received_prototypes(download.knowledge),
            download.knowledge.get("foreground_share"),
        )
        self.setup.memory.save("retained", {"fraction": retained})
        return retained

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        supervised = (
            self.setup.supervised(self.setup.model(labeled.image).logits, labeled.label)
            if labeled is not None
            else None
        )
        term = self._pseudo_term(unlabeled) if unlabeled is not None else None
        return Losses(supervised, [term] if term is not None else [])

    def _pseudo_term(self, batch: UnlabeledBatch) -> Term | None:
        """Return the masked loss, or None if no pixel of the batch is trusted."""
        pseudo, trust = batch.stored["pseudo"], batch.stored["trust"]
        output = self.setup.task.output
        # One look at the device per step: an optimizer step without a gradient would still move
        # the weights by its momentum.
        if not bool(trusted_pixels(trust, output).any()):
            return None
        logits = self.setup.model(batch.views[self._config.view].image).logits
        numerator, denominator = masked_pixel_loss(logits, pseudo.float(), trust, output)
        numerator = self._config.ce_weight * numerator
        if self._config.dice_weight > 0:
            dice = masked_soft_dice(logits, pseudo.float(), trust, output)
            numerator = numerator + self._config.dice_weight * dice * denominator
        return Term(
            "pseudo",
            numerator,
            denominator,
            image=batch.views["weak"].image,
            pseudo_mask=pseudo,
            student_prob=foreground_probabilities(logits, output),
        )

    @override
    def knowledge(self) -> Arrays:
        counts = {} if self._count is None else {"foreground_count": self._count}
        return counts if self._sums is None else sums_to_arrays(self._sums)

    @override
    def metrics(self) -> Mapping[str, float]:
        return self._stats


class DenoiseRule(ServerRule):
    """Warm-up on labeled sites, then both groups; pools prototypes and blends with mu."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, DenoiseConfig)
        self._config = setup.config
        warn_of_thresholds(setup.config, setup.run.model)
        self._warmup = warmup_rounds(self._config.warmup_rounds, setup.run.rounds)
        self._period = refresh_period(self._config.refresh, setup.run.rounds)
        self._labeled = [s for s, info in setup.roster.items() if counts_as_labeled(info)]
        self._pseudo = [s for s, i in setup.roster.items() if i.role != Role.LABELED]
        self._teachers: list[Arrays] = []
        self._prototypes: Arrays = {}
        self._counts: Arrays = {}
        self._metrics: dict[str, float] = {}

    def _refreshes(self, round_: int) -> bool:
        return is_refresh(round_, self._warmup, self._period)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        if round_ < self._warmup or not self._pseudo:
            return [Stage("train", tuple(self._labeled), trains=("shared",))]
        stages = [Stage("train", tuple(self.setup.roster), trains=("shared",))]
        if self._refreshes(round_) and self._config.prototypes != "local":
            stages.insert(0, Stage("prototypes", tuple(self._labeled), sends=("shared",)))
        return stages

    @override
    def clock(self, round_: int) -> Mapping[str, float]:
        counts = self._config.threshold == "share" and round_ == max(self._warmup - 1, 0)
        return {
            "phase": 1.0 if round_ < self._warmup else 2.0,
            "refresh": float(self._refreshes(round_)),
            **({"count": 1.0} if counts else {}),
        }

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        if not self._refreshes(round_):
            return {}
        if stage.name == "train" and site not in self._pseudo:
            return {}
        extras = pack_teachers(self._teachers)
        if stage.name == "train":
            extras |= self._prototypes | pooled_share(self._counts)
        return extras

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        if stage.name == "prototypes":
            self._prototypes = pooled_prototypes([u.knowledge for u in uploads])
            return {}
        counts = {u.site: u.knowledge.get("foreground_count") for u in uploads}
        self._counts |= {site: count for site, count in counts.items() if count is not None}
        labeled = [u for u in uploads if u.role != Role.UNLABELED]
        unlabeled = [u for u in uploads if u.role == Role.UNLABELED]
        xi = weighted_average([u.weights for u in labeled], [u.num_labeled for u in labeled])
        self._remember(xi, labeled)
        psi, share = self._unlabeled_average(unlabeled, sum(u.num_labeled for u in labeled))
        if psi is None:
            self._metrics = {"mu": 1.0}
            return xi
        mu = self._mu(round_, share)
        self._metrics = {"mu": mu, "group_distance": distance(xi, psi)}
        return blend(xi, psi, mu)

    def _remember(self, xi: Arrays, labeled: Sequence[Upload]) -> None:
        if self._config.source == "labeled_avg":
            self._teachers = [xi]
        elif self._config.source == "ensemble":
            self._teachers = [u.weights for u in labeled]

    def _unlabeled_average(
        self, uploads: Sequence[Upload], num_labeled: int
    ) -> tuple[Arrays | None, float]:
        """Return psi and the labeled group's share of all samples."""
        counts = [float(u.num_examples) for u in uploads]
        share = num_labeled / (num_labeled + sum(counts)) if num_labeled else 0.0
        if self._config.weigh_unlabeled_by == "sites":
            counts = [1.0] * len(uploads)
        counts = [0.0 if learned_nothing(u) else n for u, n in zip(uploads, counts, strict=True)]
        if self._config.weight_by_retained:
            shares = [min(max(u.metrics.get("retained", 0.0), 0.0), 1.0) for u in uploads]
            counts = [n * share for n, share in zip(counts, shares, strict=True)]
        if sum(counts) <= 0:
            return None, 1.0
        return weighted_average([u.weights for u in uploads], counts), share

    def _mu(self, round_: int, labeled_share: float) -> float:
        target = labeled_share if self._config.mu == "auto" else float(self._config.mu)
        if self._config.mu_ramp == 0:
            return target
        return linear_ramp(round_, self._warmup, self._config.mu_ramp, 1.0, target)

    @override
    def state(self) -> Arrays:
        return pack_teachers(self._teachers) | {f"count/{s}": n for s, n in self._counts.items()}

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._teachers = unpack_teachers(arrays)
        self._counts = {
            k.removeprefix("count/"): n for k, n in arrays.items() if k.startswith("count/")
        }

    @override
    def metrics(self) -> Mapping[str, float]:
        return self._metrics


METHOD = Method(
    name="denoise",
    summary="Pseudo-labels from labeled sites' knowledge, denoised (Qiu et al. 2023).",
    config=DenoiseConfig,
    server=DenoiseRule,
    labeled=PseudoLabels,
    unlabeled=PseudoLabels,
    mixed=PseudoLabels,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=payload,
    check=check,
)
