"""An exchange whose sites come and go, and sites that return a number instead of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

import torch

from fedssl.config import RunConfig
from fedssl.fingerprint import code_fingerprint
from fedssl.roster import plan_text, task_text
from fedssl.site import versions
from fedssl.types import Arrays, Download, Role, SiteInfo, Task, Upload

TASK = Task("fundus", ("background", "disc"), "2d", channels=1)


class Answers(Protocol):
    """What a site is to an exchange."""

    def answer(self, download: Download) -> Upload: ...


@dataclass
class Number:
    """A site whose training is to fill all weights with one number."""

    name: str
    role: Role
    run: RunConfig
    value: float = 0.0
    samples: int = 1
    task: Task = TASK
    info: dict[str, str] = field(default_factory=dict)
    seen: list[Download] = field(default_factory=list)

    def answer(self, download: Download) -> Upload:
        self.seen.append(download)
        described = {
            "fingerprint": code_fingerprint(),
            "task": task_text(self.task),
            "plan": plan_text(self.run, self.task),
            "versions": json.dumps(versions()),
            "distance_unit": "pixel",
            **self.info,
        }
        weights: Arrays = {}
        if download.trains:
            weights = {k: torch.full_like(v, self.value) for k, v in download.weights.items()}
        return Upload(
            self.name,
            self.role,
            download.round,
            download.stage,
            self.samples,
            0 if self.role == Role.UNLABELED else self.samples,
            weights,
            info=described if download.stage == "describe" else {},
        )


@dataclass
class Comings:
    """A network on which sites are connected at some moments and not at others.

    Args:
        sites: by name.
        connected: who is there at the i-th moment; the last holds on. Each `describe` and each
            `wait` is a new moment: the first is the start of the run, then comes one per round.
        change: what becomes of an upload on its way; None: it is lost.
    """

    sites: Mapping[str, Answers]
    connected: Sequence[Set[str]]
    change: Callable[[Upload], Upload | None] = lambda upload: upload
    engine: str = "loopback"
    open: bool = True
    asking: bool = False
    moment: int = -1
    waited: list[tuple[str, ...]] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)

    def describe(self, run: str) -> Sequence[Upload]:
        there = self._next()
        came = [s for s in self.sites if s in there and s not in self.heard]
        self.heard = set(there)
        return [self.sites[s].answer(Download(run, 0, "describe", s)) for s in came]

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        there = self._there()
        uploads = [self.sites[d.site].answer(d) for d in downloads if d.site in there]
        return [sent for u in uploads if (sent := self.change(u)) is not None]

    def wait(self, sites: Collection[str], seconds: float) -> bool:
        self.waited.append(tuple(sites))
        while self.moment < len(self.connected) - 1:
            if self._next() & set(sites):
                return True
        return False

    def _next(self) -> Set[str]:
        self.moment += 1
        return self._there()

    def _there(self) -> Set[str]:
        return self.connected[min(self.moment, len(self.connected) - 1)]
