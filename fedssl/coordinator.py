"""The one federation loop. How messages travel is an `Exchange`: a loop, Ray, or a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from fedssl.checkpoint import (
    Checkpoint,
    load_checkpoint,
    new_run_token,
    next_attempt,
    save_checkpoint,
)
from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.evaluate import means
from fedssl.functional.averaging import cpu_copy
from fedssl.members import Exchange, Members
from fedssl.methods import method_of
from fedssl.methods.base import ServerRule, ServerSetup
from fedssl.replies import Replies, Wanted, usable_scores
from fedssl.results import RoundRecord, RunFolder, SiteResult
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
    token = next_attempt(checkpoint.token) if checkpoint else new_run_token()
    federation = _Federation(run, exchange, token)
    if checkpoint:
        federation.restore(checkpoint)
    out.begin(federation.round, resumed=checkpoint is not None)
    if not checkpoint:  # so that a run which ends in its first round can be resumed, too
        save_checkpoint(out, federation.checkpoint(), run)
    progress.start(run, federation.members.roster, federation.round)
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
        roster=federation.members.roster,
        versions=federation.members.versions,
        units=federation.members.units,
    )
    progress.finish(out)
    return out


class _Federation:
    """State of a run at the coordinator; advances one round at a time."""

    def __init__(self, run: RunConfig, exchange: Exchange, token: str) -> None:
        self.run, self.exchange, self.token = run, exchange, token
        torch.set_num_threads(run.threads)
        self.method = method_of(run)
        self.members = Members(run, exchange, token)
        self.round, self.step = 0, 0
        self.task = self.members.task
        trained = self.method.task(self.task)
        with seeded(derive_seed(run.seed, "init"), torch.device("cpu")):
            model = self.method.build_model(run, trained)
        self.parts = self.method.parts(model)
        private = set(self.parts.get("private", ()))
        state = cpu_copy(model.state_dict())
        self.weights = {k: v for k, v in state.items() if k not in private}
        self.payload = self.method.payload(run, trained, self.weights)
        self.rule: ServerRule = self._new_rule()

    def _new_rule(self) -> ServerRule:
        task, roster = self.method.task(self.task), dict(self.members.roster)
        setup = ServerSetup(self.run.method_config, self.run, task, roster, self.parts)
        return self.method.server(setup)

    def admit(self) -> None:
        """Let sites in that have come since the last round.

        The rule is made anew for the longer roster and takes over what the old one kept, as in a
        resumed run. Without new sites nothing is touched.
        """
        if self.members.arrivals(self.round):
            state = self.rule.state()
            self.rule = self._new_rule()
            self.rule.load_state(state)

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
        self.admit()
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
        accepted = self._collect(stage, record)
        merged = self.rule.merge(self.round, stage, self.weights, accepted)
        self.weights = {**self.weights, **merged}
        record.stages.append(stage.name)
        for upload in accepted:
            record.sites.setdefault(upload.site, {}).update(upload.metrics)

    def _collect(self, stage: Stage, record: RoundRecord) -> list[Upload]:
        """Return the usable uploads of a stage, in site order.

        Below the quorum, sites without a reply are asked again as soon as they can be, until
        `round-timeout` is over once more.

        Raises:
            FederationError: it is over, or nobody is left to be asked.
        """
        run, members = self.run, self.members
        wanted = Wanted(
            run, self.round, stage, members.roster, self.parts, self.weights, self.payload
        )
        downloads = {site: self._download(stage, site) for site in members.asked(stage.sites)}
        replies = Replies(wanted, list(downloads))
        replies.take(self._exchange(list(downloads.values()), record))
        deadline = time.monotonic() + run.round_timeout
        while lacking := replies.shortage():
            log.warning("%s", lacking.text)
            left = deadline - time.monotonic()
            if not lacking.missing or not self.exchange.wait(lacking.missing, left):
                raise FederationError(f"{lacking.text} {replies.reasons()} {self._resumable()}")
            again = [downloads[site] for site in lacking.missing]
            replies.take(self._exchange(again, record))
        self.step += 1
        usable = replies.in_site_order()
        members.note(list(downloads), [u.site for u in usable], wanted.where)
        return usable

    def _resumable(self) -> str:
        """Say what a run that ends here leaves behind."""
        return f"The state before round {self.round + 1} is saved; --resume goes on from there."

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
        uploads = self.exchange.send(downloads, self.members.roster)
        record.bytes_down += sum(_nbytes(d, self.run) for d in downloads)
        record.bytes_up += sum(_nbytes(u, self.run) for u in uploads)
        return uploads

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
            for site in self.members.asked(list(self.members.roster))
        ]
        replies = self._exchange(downloads, record)
        self.step += 1
        current = [u for u in replies if (u.round, u.stage) == (self.round, "evaluate")]
        found = usable_scores(current, self.members.roster)
        if silent := sorted(self.members.roster.keys() - found.keys()):
            log.warning("No results on the %s split from: %s.", split, ", ".join(silent))
        return {
            site: SiteResult(
                role=info.role.value,
                split=split,
                metrics=means(found.get(site, {})),
                cases=int(found.get(site, {}).get("cases", 0)),
                answered=site in found,
            )
            for site, info in self.members.roster.items()
        }


def _nbytes(message: Download | Upload, run: RunConfig) -> int:
    """Return the size of a message's arrays as `transfer` sends them."""
    halved = sum(
        w.nbytes // 2
        for w in message.weights.values()
        if run.transfer == "fp16" and w.dtype == torch.float32
    )
    arrays = [*message.weights.values(), *message.knowledge.values()]
    return sum(a.nbytes for a in arrays) - halved
