"""A whole federation in one process, with no Flower in it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch

from fedssl.config import RunConfig
from fedssl.coordinator import Progress, run_federation
from fedssl.errors import FedsslError
from fedssl.federation import load_federation
from fedssl.results import RunFolder
from fedssl.site import Site
from fedssl.types import Download, SiteInfo, Upload

__all__ = ["LoopbackExchange", "simulate"]

log = logging.getLogger("fedssl")

Message = TypeVar("Message", Download, Upload)


@dataclass(slots=True)
class LoopbackExchange:
    """Sites as objects: a download is handed over, an upload comes back.

    Args:
        sites: by name.
        transfer: with `fp16`, weights are rounded on their way as a network would.
    """

    sites: Mapping[str, Site]
    transfer: Literal["fp32", "fp16"] = "fp32"
    engine: str = "loopback"
    open: bool = False
    asking: bool = False
    described: bool = False

    def describe(self, run: str) -> Sequence[Upload]:
        """Ask every site, once: all are there from the start."""
        if self.described:
            return []
        self.described = True
        return [s.answer(Download(run, 0, "describe", name)) for name, s in self.sites.items()]

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        """Let the sites answer one after the other; a site that fails is logged and missing."""
        uploads = []
        for download in downloads:
            try:
                upload = self.sites[download.site].answer(self._sent(download))
                uploads.append(self._sent(upload))
            except FedsslError as error:
                log.error("Site %s failed: %s", download.site, error)
            except Exception:
                log.exception("Site %s failed.", download.site)
        return uploads

    def _sent(self, message: Message) -> Message:
        if self.transfer == "fp32":
            return message
        rounded = {
            name: w.half().float() if w.dtype == torch.float32 else w
            for name, w in message.weights.items()
        }
        return replace(message, weights=rounded)

    def wait(self, sites: Collection[str], seconds: float) -> bool:
        """Return False: a site that failed would fail again."""
        return False


def simulate(run: RunConfig, folder: Path, *, progress: Progress) -> RunFolder:
    """Run a federation in this process.

    Args:
        run: configuration; `federation` names the sites.
        folder: run folder; each site keeps its own state under `sites/<name>`.
        progress: is told of every round.
    """
    federation = load_federation(run)
    sites = {
        spec.name: Site(spec, federation.task, run, folder / "sites" / spec.name)
        for spec in federation.sites
    }
    return run_federation(run, LoopbackExchange(sites, run.transfer), folder, progress=progress)
