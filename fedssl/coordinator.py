"""The one federation loop. How messages travel is an `Exchange`: a loop, Ray, or a network."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fedssl.checkpoint import Checkpoint, load_checkpoint, new_run_token, save_checkpoint
from fedssl.config import RunConfig
from fedssl.errors import FederationError, UploadError
from fedssl.evaluate import means
from fedssl.functional.averaging import all_finite, cpu_copy
from fedssl.methods import method_of
from fedssl.methods.base import ServerRule, ServerSetup
from fedssl.results import RoundRecord, RunFolder, SiteResult
from fedssl.roster import agreed_task, build_roster, counts_as_labeled
from fedssl.seeds import derive_seed, seeded
from fedssl.types import (
    Arrays,
    Download,
    SiteInfo,
    Stage,
    Upload,
)

__all__ = ["Exchange", "Progress", "run_federation"]


log = logging.getLogger("fedssl")


class Exchange(Protocol):
    """How downloads reach sites and uploads come back."""

    @property
    def engine(self) -> str:
        """`loopback`, `ray` or `deployment`."""

    def describe(self, run: str) -> Sequence[Upload]:
        """Return one upload per site that answers the `describe` query."""

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        """Deliver downloads; return the replies that came, in any order.

        A site that failed is missing; the reason is logged where the exchange learned of it.
        """


class Progress(Protocol):
    """Who is told how the run goes."""

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        """The roster is known; `round_` is the first to be run."""

    def round_done(self, record: RoundRecord) -> None:
        """One round is finished and checkpointed."""

    def finish(self, folder: RunFolder) -> None:
        """The run is complete and its results are written."""


def run_federation(
    run: RunConfig, exchange: Exchange, folder: Path, *, progress: Progress
) -> RunFolder:
    """Run a federation to its end, and leave a complete run folder.

    Raises:
        FederationError: too few sites of a role reply, or sites and coordinator do not fit.
        CheckpointError: `resume` is set and the folder holds no fitting checkpoint, or it is not
            set and the folder holds a run.
    """
    out = RunFolder(folder, run)
    checkpoint = load_checkpoint(out, run) if run.resume else None
    token = checkpoint.token if checkpoint else new_run_token()
    federation = _Federation(run, exchange, token)
    if checkpoint:
        federation.restore(checkpoint)
    out.begin(federation.round, resumed=checkpoint is not None)
    progress.start(run, federation.roster, federation.round)
    while federation.round < run.rounds:
        record = federation.advance()
        out.append(record)  # first: a round without a checkpoint is run and written again
        save_checkpoint(out, federation.checkpoint(), run)
        progress.round_done(record)
    sites = federation.evaluate("test", surface=run.evaluate.surface)
    out.write_results(
        federation.shared_weights(),
        sites,
        engine=exchange.engine,
        task=federation.task,
        roster=federation.roster,
        versions=federation.versions,
        units=federation.units,
    )
    progress.finish(out)
    return out


class _Federation:
    """State of a run at the coordinator; advances one round at a time."""

    def __init__(self, run: RunConfig, exchange: Exchange, token: str) -> None:
        self.run, self.exchange, self.token = run, exchange, token
        torch.set_num_threads(run.threads)
        self.method = method_of(run)
        described = sorted(exchange.describe(token), key=lambda upload: upload.site)
        self.task = agreed_task(described)
        self.roster = build_roster(described, run)
        self.units = {u.site: u.info["distance_unit"] for u in described}
        self.versions: dict[str, str] = json.loads(described[0].info["versions"])
        self.round, self.step = 0, 0
        trained = self.method.task(self.task)
        with seeded(derive_seed(run.seed, "init"), torch.device("cpu")):
            model = self.method.build_model(run, trained)
        self.parts = self.method.parts(model)
        private = set(self.parts.get("private", ()))
        state = cpu_copy(model.state_dict())
        self.weights = {k: v for k, v in state.items() if k not in private}
        self.payload = self.method.payload(run, trained, self.weights)
        setup = ServerSetup(run.method_config, run, trained, self.roster, self.parts)
        self.rule: ServerRule = self.method.server(setup)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was taken."""
        self.round, self.step = checkpoint.round, checkpoint.step
        self.weights = checkpoint.weights
        self.rule.load_state(checkpoint.rule)

    def checkpoint(self) -> Checkpoint:
        """Return what a later process needs to go on from here."""
        return Checkpoint(self.token, self.round, self.step, self.weights, self.rule.state())

    def shared_weights(self) -> Arrays:
        """Return the part that is evaluated, saved and digested."""
        return {name: self.weights[name] for name in self.parts["shared"]}

    def advance(self) -> RoundRecord:
        """Run all stages of the current round, and its evaluation if one is due."""
        begun = time.perf_counter()
        record = RoundRecord(round=self.round)
        for stage in self.rule.plan(self.round):
            self._run_stage(stage, record)
        record.rule = dict(self.rule.metrics())
        every, done = self.run.evaluate.every, self.round + 1
        if every and done % every == 0 and done < self.run.rounds:
            record.evaluation = self.evaluate("val", surface=False, record=record)
        record.seconds = time.perf_counter() - begun
        self.round = done
        return record

    def _run_stage(self, stage: Stage, record: RoundRecord) -> None:
        downloads = [self._download(stage, site) for site in stage.sites]
        uploads = self._exchange(downloads, record)
        accepted = self._accept(stage, uploads)
        merged = self.rule.merge(self.round, stage, self.weights, accepted)
        self.weights = {**self.weights, **merged}
        record.stages.append(stage.name)
        for upload in accepted:
            record.sites.setdefault(upload.site, {}).update(upload.metrics)

    def _download(self, stage: Stage, site: str) -> Download:
        names = [n for part in (stage.sends or stage.trains) for n in self.parts[part]]
        knowledge = self.rule.knowledge(self.round, stage, site)
        self.payload.check_download(stage.name, knowledge)
        return Download(
            run=self.token,
            round=self.round,
            stage=stage.name,
            site=site,
            step=self.step,
            weights={name: self.weights[name] for name in names},
            knowledge=knowledge,
            trains=stage.trains,
            clock=self.rule.clock(self.round),
        )

    def _exchange(self, downloads: Sequence[Download], record: RoundRecord) -> Sequence[Upload]:
        uploads = self.exchange.send(downloads, self.roster)
        self.step += 1
        record.bytes_down += sum(_nbytes(d.weights) + _nbytes(d.knowledge) for d in downloads)
        record.bytes_up += sum(_nbytes(u.weights) + _nbytes(u.knowledge) for u in uploads)
        return uploads

    def _accept(self, stage: Stage, uploads: Sequence[Upload]) -> list[Upload]:
        """Return fitting uploads in site order; refuse broken ones and raise on too few."""
        by_site = {u.site: u for u in uploads if u.round == self.round and u.stage == stage.name}
        accepted: list[Upload] = []
        refused: dict[str, str] = {}
        for site in sorted(by_site):
            try:
                self._check(stage, by_site[site])
                accepted.append(by_site[site])
            except UploadError as error:
                refused[site] = str(error)
                log.warning("Refused: %s", error)
        self._require_enough(stage, [u.site for u in accepted], refused)
        return accepted

    def _check(self, stage: Stage, upload: Upload) -> None:
        if upload.site not in stage.sites:
            raise UploadError(f"Site {upload.site!r} was not asked in stage {stage.name!r}.")
        _check_report(upload, self.roster[upload.site])
        wanted = {name for part in stage.trains for name in self.parts[part]}
        odd = sorted(wanted ^ set(upload.weights))
        if odd:
            raise UploadError(f"Site {upload.site!r}: weights {odd[:3]} are missing or undeclared.")
        for name, array in upload.weights.items():
            ours = self.weights[name]
            if array.shape != ours.shape or array.dtype != ours.dtype:
                raise UploadError(
                    f"Site {upload.site!r}: weights {name!r} are {array.dtype} "
                    f"{tuple(array.shape)}; expected {ours.dtype} {tuple(ours.shape)}."
                )
        self.payload.check_upload(stage.name, upload.knowledge, upload.site)
        for name, array in {**upload.weights, **upload.knowledge}.items():
            if not all_finite({name: array}):
                raise UploadError(f"Site {upload.site!r}: {name!r} holds NaN or infinity.")

    def _require_enough(
        self, stage: Stage, accepted: Sequence[str], refused: Mapping[str, str]
    ) -> None:
        """Raise unless enough sites replied.

        A refused upload of an unlabeled site counts as a reply: the labeled ones carry the round
        alone. Without a usable labeled upload there is no round.
        """
        labeled = [s for s in stage.sites if counts_as_labeled(self.roster[s])]
        unlabeled = [s for s in stage.sites if s not in labeled]
        for kind, asked, minimum, usable in (
            ("labeled", labeled, self.run.min_labeled, set(accepted)),
            ("unlabeled", unlabeled, self.run.min_unlabeled, {*accepted, *refused}),
        ):
            replied = usable & set(asked)
            if len(replied) < min(minimum, len(asked)):
                missing = sorted(set(asked) - replied)
                reasons = " ".join(refused.values()) or "The sites' logs hold the reason."
                raise FederationError(
                    f"Round {self.round + 1}, stage {stage.name!r}: {len(replied)} of {len(asked)} "
                    f"{kind} sites gave a usable reply; min-{kind} = {minimum}. "
                    f"Missing: {', '.join(missing)}. {reasons}"
                )

    def evaluate(
        self, split: str, *, surface: bool, record: RoundRecord | None = None
    ) -> dict[str, SiteResult]:
        """Return per-site results of the global weights on one split."""
        record = record or RoundRecord(round=self.round)
        options = {"split": split, "surface": str(surface).lower()}
        downloads = [
            Download(
                self.token,
                self.round,
                "evaluate",
                site,
                self.step,
                weights=self.shared_weights(),
                options=options,
            )
            for site in self.roster
        ]
        uploads = {u.site: u for u in self._exchange(downloads, record)}
        return {
            site: SiteResult(
                role=info.role.value,
                split=split,
                metrics=means(uploads[site].metrics) if site in uploads else {},
                cases=int(uploads[site].metrics.get("cases", 0)) if site in uploads else 0,
            )
            for site, info in self.roster.items()
        }


def _check_report(upload: Upload, info: SiteInfo) -> None:
    """Refuse a role, counts or metrics that no rule could weigh by."""
    if upload.role != info.role:
        raise UploadError(
            f"Site {upload.site!r} is {upload.role} now and was {info.role} when the run began."
        )
    if (upload.num_labeled if counts_as_labeled(info) else upload.num_examples) <= 0:
        raise UploadError(f"Site {upload.site!r} counts no samples to be weighed by.")
    for name, value in upload.metrics.items():
        if not math.isfinite(value):
            raise UploadError(f"Site {upload.site!r}: metric {name!r} is {value}.")


def _nbytes(arrays: Mapping[str, Tensor]) -> int:
    return sum(a.numel() * a.element_size() for a in arrays.values())
