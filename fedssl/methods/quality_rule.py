"""The coordinator's half of a guided method: the base rule, with the predictor's rounds in it.

    warm-up of the base method | predictor rounds, then the gate | the base method, guided

Labeled sites keep snapshots during the warm-up, train the predictor with the segmenter frozen, and
test it. Unlabeled and mixed sites are sent it once. The order is that of the authors' phases; that
rounds of the base method stop for it, the averaging and the pooled test are ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from typing_extensions import override

from fedssl.errors import ConfigError
from fedssl.functional.averaging import weighted_average
from fedssl.functional.quality import CorrelationSums, gate
from fedssl.methods.base import Method, ServerRule, ServerSetup
from fedssl.methods.quality_config import base_run, guide_config, normalisation, predictor_rounds
from fedssl.methods.quality_masks import SNAPSHOTS
from fedssl.methods.quality_predictor import GATE, PREDICTOR
from fedssl.roster import counts_as_labeled
from fedssl.types import Arrays, Role, Stage, Upload

__all__ = ["GuidedRule", "snapshot_rounds"]

_SNAPSHOT_SHARES = (0.05, 0.15, 0.25, 0.5, 0.75)
_REFRESH_LR, _REFRESH_WEAK = 0.1, 0.25
_BASE, _OWED = "base/", "owed/"

log = logging.getLogger("fedssl")


def snapshot_rounds(warmup: int) -> list[int]:
    """Return the rounds at whose start labeled sites keep the segmenter, at most 5 of them."""
    rounds = {max(1, round(share * warmup)) for share in _SNAPSHOT_SHARES}
    return sorted(r for r in rounds if r < warmup)[:SNAPSHOTS]


class GuidedRule(ServerRule):
    """Runs the base rule on its own clock, and the predictor's stages between its rounds.

    Args:
        setup: of the whole run.
        method: what is guided.
    """

    def __init__(self, setup: ServerSetup, method: Method) -> None:
        self.setup = setup
        self._config = guide_config(setup.run)
        _check_file(self._config.pretrained)
        parts = {k: v for k, v in setup.parts.items() if k != PREDICTOR}
        base = replace(setup, run=base_run(setup.run), parts=parts)
        self._base = method.server(base)
        self._labeled = [s for s, info in setup.roster.items() if counts_as_labeled(info)]
        self._length = predictor_rounds(setup.run)
        # Asked of a rule that is thrown away, in case planning leaves a trace.
        self._start = _supervised_rounds(method.server(base))
        self._snapshots = snapshot_rounds(self._start)
        self._pearson = self._blackout = math.nan
        self._version, self._passed = 0, False
        self._owed: set[str] = set()  # sites that the predictor is still to be sent to
        self._of_base = False  # whether the last merge was the base rule's
        if normalisation(setup.run) != self._config.normalise:
            log.warning(
                "batch-size = %d: quality weights are divided by the number of samples, not by "
                "their sum, which would cancel them in so small a batch.",
                setup.run.batch_size,
            )

    def _trains(self, round_: int) -> bool:
        return self._start <= round_ < self._start + self._length

    def _refreshes(self, round_: int) -> bool:
        since, every = round_ - self._start - self._length, self._config.refresh_every
        return every > 0 and since > 0 and since % every == 0

    def _base_round(self, round_: int) -> int:
        return round_ - min(max(round_ - self._start, 0), self._length)

    @override
    def plan(self, round_: int) -> Sequence[Stage]:
        labeled = tuple(self._labeled)
        train = Stage(PREDICTOR, labeled, trains=(PREDICTOR,), sends=("shared", PREDICTOR))
        test = Stage(GATE, labeled, sends=(PREDICTOR,))
        if self._trains(round_):
            return [train, test] if round_ + 1 == self._start + self._length else [train]
        stages = list(self._base.plan(self._base_round(round_)))
        if self._refreshes(round_):
            return [train, test, *map(self._with_predictor, stages)]
        return [s if self._owed.isdisjoint(s.sites) else self._with_predictor(s) for s in stages]

    def _with_predictor(self, stage: Stage) -> Stage:
        """Let the predictor travel along to where there are images to score."""
        scores = any(self.setup.roster[s].role != Role.LABELED for s in stage.sites)
        if not stage.trains or not scores:
            return stage
        return replace(stage, sends=(*(stage.sends or stage.trains), PREDICTOR))

    @override
    def clock(self, round_: int) -> Mapping[str, float]:
        base, refreshes = self._base_round(round_), self._refreshes(round_)
        done = (round_ - self._start) / self._length
        cosine = 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
        kept = self._snapshots.index(round_) if round_ in self._snapshots else -1
        return {
            **self._base.clock(base),
            "quality_round": float(base),
            "quality_snapshot": float(kept),
            "quality_on": float(self._passed and round_ >= self._start + self._length),
            "quality_version": float(self._version),
            "quality_lr": _REFRESH_LR if refreshes else cosine,
            "quality_weak": _REFRESH_WEAK if refreshes else self._config.p_weak,
        }

    @override
    def knowledge(self, round_: int, stage: Stage, site: str) -> Arrays:
        if stage.name in (PREDICTOR, GATE):
            return {}
        return self._base.knowledge(self._base_round(round_), stage, site)

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        self._of_base = False
        if stage.name == PREDICTOR:
            return weighted_average([u.weights for u in uploads], [u.num_labeled for u in uploads])
        if stage.name == GATE:
            self._decide([u.knowledge for u in uploads])
            return {}
        self._of_base = True
        if PREDICTOR in stage.sends:
            # A site that did not answer will say what it lacks when it is back.
            self._owed -= set(stage.sites)
        self._owed |= {u.site for u in uploads if u.metrics.get("quality/ready") == 0.0}
        base = self._base_round(round_)
        own = {k: v for k, v in weights.items() if not k.startswith(f"{PREDICTOR}.")}
        return self._base.merge(base, stage, own, [self._as_base(u, base) for u in uploads])

    def _as_base(self, upload: Upload, round_: int) -> Upload:
        """Return an upload as the base rule would get it, with fewer samples if less reliable."""
        upload = replace(upload, round=round_)
        if not self._config.weigh_sites or upload.role != Role.UNLABELED:
            return upload
        share = min(max(upload.metrics.get("quality/reliability", 1.0), 0.0), 1.0)
        return replace(upload, num_examples=max(1, round(share * upload.num_examples)))

    def _decide(self, sums: Sequence[Arrays]) -> None:
        """Pool the sites' sums; without a trustworthy predictor all samples weigh the same."""
        normal = sum((CorrelationSums.from_tensor(s["normal"]) for s in sums), CorrelationSums())
        black = sum((CorrelationSums.from_tensor(s["blackout"]) for s in sums), CorrelationSums())
        limits = self._config.gate_correlation, self._config.gate_blackout
        self._pearson, self._blackout = normal.pearson(), black.pearson()
        self._passed = gate(normal, black, min_correlation=limits[0], max_blackout=limits[1])
        scoring = {s for s, info in self.setup.roster.items() if info.role != Role.LABELED}
        self._owed = scoring if self._passed else set()
        self._version += 1
        log.log(
            logging.INFO if self._passed else logging.WARNING,
            "Quality predictor %s: correlation with the true Dice %.3f (needs > %.2f), with its "
            "scores on black images %.3f (needs < %.2f).%s",
            "accepted" if self._passed else "refused",
            self._pearson,
            limits[0],
            self._blackout,
            limits[1],
            "" if self._passed else " All samples weigh the same.",
        )

    @override
    def state(self) -> Arrays:
        own = [self._pearson, self._blackout, self._passed, self._version]
        base = {f"{_BASE}{k}": v for k, v in self._base.state().items()}
        return {
            **base,
            "gate": torch.tensor(own, dtype=torch.float64),
            # By name: a resumed or longer roster may hold other sites.
            **{f"{_OWED}{site}": torch.tensor(True) for site in sorted(self._owed)},
            "start": torch.tensor(self._start),
        }

    @override
    def load_state(self, arrays: Arrays) -> None:
        self._pearson, self._blackout, passed, version = arrays["gate"].tolist()
        self._passed, self._version = bool(passed), int(version)
        self._owed = {k.removeprefix(_OWED) for k in arrays if k.startswith(_OWED)}
        # Sites that come late must not move the predictor's rounds.
        self._start = int(arrays["start"])
        self._snapshots = snapshot_rounds(self._start)
        own = {k: v for k, v in arrays.items() if k.startswith(_BASE)}
        self._base.load_state({k.removeprefix(_BASE): v for k, v in own.items()})

    @override
    def metrics(self) -> Mapping[str, float]:
        base = self._base.metrics() if self._of_base else {}
        if self._version == 0:
            return base
        return {
            **base,
            "gate/pearson": self._pearson,
            "gate/blackout": self._blackout,
            "gate/passed": float(self._passed),
        }


def _supervised_rounds(rule: ServerRule) -> int:
    """Return how many rounds the base rule trains on masks only; a third if it never stops."""
    setup = rule.setup
    for round_ in range(setup.run.rounds):
        # What does not train (anchors, banks) may depend on which sites are there already.
        asked = {s for stage in rule.plan(round_) if stage.trains for s in stage.sites}
        if rule.clock(round_).get("phase", 1.0) >= 2.0:
            return round_
        if any(setup.roster[s].role == Role.UNLABELED for s in asked):
            return round_
    return setup.run.rounds // 3


def _check_file(pretrained: str) -> None:
    if pretrained and not Path(pretrained).is_file():
        raise ConfigError(
            f"Key 'quality.pretrained' = {pretrained!r}: there is no such file at the coordinator."
        )
