"""The uploads of one stage: what is usable, what is refused, and whether there are enough."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedssl.config import RunConfig
from fedssl.errors import UploadError
from fedssl.functional.averaging import all_finite
from fedssl.methods.base import Payload
from fedssl.roster import counts_as_labeled
from fedssl.types import Arrays, SiteInfo, Stage, Upload

__all__ = ["Replies", "Shortage", "Wanted", "usable_scores"]

log = logging.getLogger("fedssl")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the uploads of a stage are checked against.

    Args:
        run: its `min-labeled` and `min-unlabeled` are read.
        round: counts from 0.
        stage: the open stage.
        roster: sites by name.
        parts: names of the model's state by part.
        weights: global weights; an upload's have their shapes and dtypes.
        payload: the extras that may travel.
    """

    run: RunConfig
    round: int
    stage: Stage
    roster: Mapping[str, SiteInfo]
    parts: Mapping[str, Sequence[str]]
    weights: Arrays
    payload: Payload

    @property
    def where(self) -> str:
        """Round and stage, for people."""
        return f"Round {self.round + 1}, stage {self.stage.name!r}"


@dataclass(frozen=True, slots=True)
class Shortage:
    """Too few replies: what is said about it, and who could still help."""

    text: str
    missing: tuple[str, ...]


@dataclass(slots=True)
class Replies:
    """Collects the replies of one stage.

    Args:
        wanted: what they are checked against.
        asked: sites that the stage was sent to.
    """

    wanted: Wanted
    asked: Sequence[str]
    _usable: dict[str, Upload] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    def take(self, uploads: Sequence[Upload]) -> None:
        """Sort uploads into usable and refused; what belongs to another stage is no reply."""
        for upload in sorted(uploads, key=lambda u: u.site):
            stamp = (upload.round, upload.stage)
            if stamp != (self.wanted.round, self.wanted.stage.name):
                log.warning(
                    "%s: ignored an upload of site %s that belongs to round %d, stage %r.",
                    self.wanted.where,
                    upload.site,
                    upload.round + 1,
                    upload.stage,
                )
                continue
            try:
                self._check(upload)
                self._usable[upload.site] = upload
            except UploadError as error:
                self._refused[upload.site] = str(error)
                log.warning("Refused: %s", error)

    def in_site_order(self) -> list[Upload]:
        """Return the usable uploads."""
        return [self._usable[site] for site in sorted(self._usable)]

    def shortage(self) -> Shortage | None:
        """Return what is lacking, or None where enough sites replied.

        A refused upload of an unlabeled site counts as a reply: the labeled ones carry the round
        alone. Without a usable labeled upload there is no round.
        """
        roster, run = self.wanted.roster, self.wanted.run
        sites = self.wanted.stage.sites
        labeled = [s for s in sites if counts_as_labeled(roster[s])]
        unlabeled = [s for s in sites if s not in labeled]
        for kind, group, minimum, usable in (
            ("labeled", labeled, run.min_labeled, set(self._usable)),
            ("unlabeled", unlabeled, run.min_unlabeled, {*self._usable, *self._refused}),
        ):
            replied = usable & set(group)
            if len(replied) < min(minimum, len(group)):
                missing = sorted(set(group) - replied)
                text = (
                    f"{self.wanted.where}: {len(replied)} of {len(group)} {kind} sites gave a "
                    f"usable reply; min-{kind} = {minimum}. Missing: {', '.join(missing)}."
                )
                # A refused upload would be the same again.
                able = [s for s in missing if s in self.asked and s not in self._refused]
                return Shortage(text, tuple(able))
        return None

    def reasons(self) -> str:
        """Return why uploads were refused, or where else to look."""
        return " ".join(self._refused.values()) or "The sites' logs hold the reason."

    def _check(self, upload: Upload) -> None:
        wanted, site = self.wanted, upload.site
        if site not in self.asked:
            raise UploadError(f"Site {site!r} was not asked in stage {wanted.stage.name!r}.")
        _check_report(upload, wanted.roster[site])
        _check_weights(upload, wanted)
        wanted.payload.check_upload(upload)
        for name, array in {**upload.weights, **upload.knowledge}.items():
            if not all_finite({name: array}):
                raise UploadError(f"Site {site!r}: {name!r} holds NaN or infinity.")


def usable_scores(
    uploads: Iterable[Upload], roster: Mapping[str, SiteInfo]
) -> dict[str, Mapping[str, float]]:
    """Return what sites report of an evaluation; what is unusable is logged and left out.

    Args:
        uploads: of a stage `evaluate`; sums `x/sum` with their counts `x/count`.
        roster: who takes part.
    """
    found: dict[str, Mapping[str, float]] = {}
    for upload in uploads:
        sums = {k: v for k, v in upload.metrics.items() if k.endswith("/sum")}
        odd = [k for k, v in upload.metrics.items() if not math.isfinite(v) or v < 0]
        odd += [k for k in sums if f"{k.removesuffix('sum')}count" not in upload.metrics]
        if upload.site not in roster or odd:
            log.warning("Refused: the scores of site %r (%s).", upload.site, ", ".join(odd[:3]))
        else:
            found[upload.site] = upload.metrics
    return found


def _check_weights(upload: Upload, wanted: Wanted) -> None:
    names = {name for part in wanted.stage.trains for name in wanted.parts[part]}
    odd = sorted(names ^ set(upload.weights))
    if odd:
        raise UploadError(f"Site {upload.site!r}: weights {odd[:3]} are missing or undeclared.")
    for name, array in upload.weights.items():
        ours = wanted.weights[name]
        if array.shape != ours.shape or array.dtype != ours.dtype:
            raise UploadError(
                f"Site {upload.site!r}: weights {name!r} are {array.dtype} "
                f"{tuple(array.shape)}; expected {ours.dtype} {tuple(ours.shape)}."
            )


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
