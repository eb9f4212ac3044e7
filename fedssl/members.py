"""The sites of a run: who is there at its start, who comes late, who leaves and comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from fedssl.config import RunConfig
from fedssl.errors import FederationError
from fedssl.methods import method_of
from fedssl.roster import common_task, misfit, shortage, site_info, told_versions
from fedssl.site import versions
from fedssl.types import Download, SiteInfo, Task, Upload

__all__ = ["Exchange", "Members"]

log = logging.getLogger("fedssl")

POLL: Final = 0.2
"""Seconds between looks for sites."""


class Exchange(Protocol):
    """How downloads reach sites and uploads come back."""

    @property
    def engine(self) -> str:
        """`loopback`, `ray` or `deployment`."""

    @property
    def open(self) -> bool:
        """Whether sites may come later; else the first `describe` has returned all there are."""

    @property
    def asking(self) -> bool:
        """Whether a site that is connected has yet to describe itself."""

    def describe(self, run: str) -> Sequence[Upload]:
        """Return the description of every site that has come, or come back, since the last call.

        Does not wait for sites that are not there.
        """

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        """Deliver downloads; return the replies that came within `round-timeout`, in any order.

        A site that failed is missing; the reason is logged where the exchange learned of it.
        """

    def wait(self, sites: Collection[str], seconds: float) -> bool:
        """Wait until one of these sites, which gave no reply, can be asked again.

        Returns:
            Whether that came true in time; False at once where it never will.
        """


class Members:
    """Knows who takes part; nobody is admitted whose code, task or plan is another.

    Args:
        run: the run's configuration.
        exchange: how sites are reached.
        token: name of the run at the sites.

    Raises:
        FederationError: within `round-timeout` too few sites have come, or, where all sites are
            known from the start, one of them does not fit.
    """

    def __init__(self, run: RunConfig, exchange: Exchange, token: str) -> None:
        self._run, self._exchange, self._token = run, exchange, token
        self._unlabeled_train = method_of(run).unlabeled is not None
        self._version = versions()["fedssl"]
        self._barred: set[str] = set()
        self._missing: set[str] = set()
        described = self._gathered()
        self.task: Task = common_task(described)
        fitting = self._fitting(described, self.task)
        self.roster: dict[str, SiteInfo] = {u.site: site_info(u) for u in fitting}
        self.units: dict[str, str] = {u.site: u.info.get("distance_unit", "") for u in fitting}
        self.versions = told_versions(fitting[0])
        self._compare_versions(fitting)

    def arrivals(self, round_: int) -> bool:
        """Admit who has come since the last round; return whether there are new sites."""
        came = sorted(self._exchange.describe(self._token), key=lambda upload: upload.site)
        fitting = self._fitting(came, self.task)
        new = [u for u in fitting if u.site not in self.roster]
        for upload in fitting:
            if upload.site in self.roster and upload.role != self.roster[upload.site].role:
                self._bar(upload.site, self._other_role(upload))
        if new:
            known = {**self.roster, **{u.site: site_info(u) for u in new}}
            self.roster = {site: known[site] for site in sorted(known)}
            self.units |= {u.site: u.info.get("distance_unit", "") for u in new}
            self._compare_versions(new)
        for upload in new:
            log.info("Site %s joins in round %d, as %s.", upload.site, round_ + 1, upload.role)
        return bool(new)

    def asked(self, sites: Sequence[str]) -> list[str]:
        """Return those among the sites of a stage that are not kept out."""
        return [site for site in sites if site not in self._barred]

    def note(self, asked: Collection[str], replied: Collection[str], where: str) -> None:
        """Log who is missing for the first time, and who takes part again.

        Args:
            asked: sites of a stage.
            replied: those that gave a usable reply.
            where: round and stage, for people.
        """
        gone = set(asked) - set(replied) - self._missing
        back = set(replied) & self._missing
        if gone:
            log.warning("%s goes on without %s.", where, ", ".join(sorted(gone)))
        if back:
            log.info("%s: %s takes part again.", where, ", ".join(sorted(back)))
        self._missing = (self._missing | gone) - back

    def _gathered(self) -> list[Upload]:
        """Return the descriptions of the first sites, by name; wait until there are enough."""
        deadline = time.monotonic() + self._run.round_timeout
        found: dict[str, Upload] = {}
        told = ""
        while True:
            for upload in self._exchange.describe(self._token):
                if upload.site in found and not self._exchange.open:
                    raise FederationError(
                        f"Two nodes say that they are site {upload.site!r}; names must differ."
                    )
                found[upload.site] = upload
            described = [found[site] for site in sorted(found)]
            lacking = self._lacking(described)
            if not self._exchange.open:
                self._require(described, lacking)
                return described
            late = time.monotonic() >= deadline
            if not lacking and (late or not self._exchange.asking):
                return described
            if late:
                raise self._too_few(described, lacking)
            if lacking and lacking != told:
                log.info("Waiting for sites: there are %s.", lacking)
                told = lacking
            time.sleep(POLL)

    def _lacking(self, described: Sequence[Upload]) -> str:
        """Return which role is short of sites that fit."""
        refused = self._refused(described)
        fitting = [site_info(u) for u in described if u.site not in refused]
        needs = self._unlabeled_train and self._exchange.open
        return shortage(fitting, self._run, unlabeled_train=needs)

    def _refused(self, described: Sequence[Upload]) -> dict[str, str]:
        """Return the reason by site, for those that do not fit."""
        if not described:
            return {}
        task = common_task(described)
        return {u.site: reason for u in described if (reason := self._misfit(u, task))}

    def _require(self, described: Sequence[Upload], lacking: str) -> None:
        common_task(described)  # says so, where no site has answered
        for reason in self._refused(described).values():
            raise FederationError(reason)
        if lacking:
            raise FederationError(
                f"Of {len(described)} sites there are {lacking}. Set roles in the federation file "
                "or 'labeled-sites' (at least one site must have masks), or lower the key."
            )

    def _too_few(self, described: Sequence[Upload], lacking: str) -> FederationError:
        refused = self._refused(described)
        reasons = f" Refused: {' '.join(refused.values())}" if refused else ""
        answered = [u.site for u in described]
        return FederationError(
            f"After {self._run.round_timeout:.0f} s (round-timeout) there are {lacking}. Sites "
            f"that answered: {answered}.{reasons} Start the missing sites' `fedssl-client join`, "
            "or lower min-labeled or min-unlabeled."
        )

    def _fitting(self, described: Sequence[Upload], task: Task) -> list[Upload]:
        """Return the sites that fit; keep the others out, and say why."""
        fitting = []
        for upload in described:
            if reason := self._misfit(upload, task):
                self._bar(upload.site, reason)
            else:
                self._barred.discard(upload.site)
                fitting.append(upload)
        return fitting

    def _misfit(self, upload: Upload, task: Task) -> str:
        return misfit(upload, task, self._run, self._version)

    def _bar(self, site: str, reason: str) -> None:
        self._barred.add(site)
        log.error("Refused: %s", reason)

    def _other_role(self, upload: Upload) -> str:
        was = self.roster[upload.site].role
        return f"Site {upload.site!r} came back as {upload.role}; in this run it is {was}."

    def _compare_versions(self, described: Sequence[Upload]) -> None:
        """Say which sites compute with other versions, where last digits may differ."""
        for upload in described:
            theirs = told_versions(upload)
            differing = [
                f"{name} {theirs.get(name, 'none')}, {self.versions[name]} elsewhere"
                for name in self.versions
                if theirs.get(name) != self.versions[name]
            ]
            if differing:
                log.warning("Site %s has %s.", upload.site, "; ".join(differing))
