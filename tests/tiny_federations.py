"""Federations so small that a run takes a moment, and an exchange that shows what travels."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedssl.config import RunConfig, Scalar
from fedssl.coordinator import run_federation
from fedssl.federation import load_federation
from fedssl.methods import load_config
from fedssl.results import RoundRecord, RunFolder
from fedssl.site import Site
from fedssl.types import Download, SiteInfo, Upload
from fedssl.wire import Transfer, pack_download, pack_upload, unpack_download, unpack_upload

TASK = """\
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
mode = "2d"
output = "nested"
channels = 3
"""
ROLES = {"north": "labeled", "south": "mixed", "west": "unlabeled"}
SIZE = 32
TINY: dict[str, Scalar] = {
    "rounds": 4,
    "local-steps": 2,
    "batch-size": 2,
    "model.width": 4,
    "model.depth": 2,
    "device": "cpu",
    "evaluate.every": 0,
    "evaluate.surface": False,
    "evaluate.overlays": 0,
}


class Configure(Protocol):
    """Return a method's tiny configuration on sites of the given roles."""

    def __call__(
        self, keys: Mapping[str, Scalar] = ..., roles: Mapping[str, str] | None = ...
    ) -> RunConfig: ...


class Crash(BaseException):
    """The process ends here; nothing in the library may catch it."""


def write_federation(
    folder: Path, roles: Mapping[str, str] = ROLES, *, images: int = 8, size: int = SIZE
) -> Path:
    """Write a federation.toml of synthetic sites, each with a look of its own."""
    text = TASK
    for look, (name, role) in enumerate(roles.items()):
        text += f'[[site]]\nname = "{name}"\nrole = "{role}"\nlayout = "synthetic"\n'
        text += "labeled = 2\n" if role == "mixed" else ""
        text += f'options = {{ kind = "fundus", look = {look % 5}, images = {images}, '
        text += f"size = {size} }}\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "federation.toml"
    path.write_text(text)
    return path


def tiny_run(federation: Path, cache: Path, keys: Mapping[str, Scalar]) -> RunConfig:
    """Return the typed configuration of a run that takes seconds."""
    flat = {**TINY, "federation": str(federation), "cache-dir": str(cache), **keys}
    return load_config(flat)


@dataclass
class Silent:
    """Shows nothing; ends the process after a round, if asked to."""

    crash_after: int = -1
    first_round: int = -1
    finished: bool = False

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        self.first_round = round_

    def round_done(self, record: RoundRecord) -> None:
        if record.round == self.crash_after:
            raise Crash

    def finish(self, folder: RunFolder) -> None:
        self.finished = True


def unchanged(upload: Upload) -> Upload | None:
    """Let an upload pass."""
    return upload


@dataclass
class Watched:
    """Sites in this process, whose failures are not caught; keeps all that travels.

    Args:
        sites: by name.
        change: what happens to an upload on its way; None: it is lost.
        crash_after: number of answers to training stages after which the process ends.
        reverse: ask and answer in the opposite order.
        wire: pack and unpack every message, as Flower does.
        transfer: then, how.
        absent: (round, site) of stages that a site takes no part in.
    """

    sites: Mapping[str, Site]
    change: Callable[[Upload], Upload | None] = unchanged
    crash_after: int = -1
    reverse: bool = False
    wire: bool = False
    transfer: Transfer = "fp32"
    absent: Set[tuple[int, str]] = frozenset()
    engine: str = "loopback"
    open: bool = False
    asking: bool = False
    described: bool = False
    training: bool = False
    downloads: list[Download] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)

    def describe(self, run: str) -> Sequence[Upload]:
        if self.described:
            return []
        self.described = True
        return [s.answer(Download(run, 0, "describe", name)) for name, s in self.sites.items()]

    def send(
        self, downloads: Sequence[Download], roster: Mapping[str, SiteInfo]
    ) -> Sequence[Upload]:
        self.training = downloads[0].stage != "evaluate"
        arrived = []
        for download in reversed(downloads) if self.reverse else downloads:
            if (download.round, download.site) in self.absent:
                continue
            sent = self.change(self._answer(download))
            arrived += [sent] if sent is not None else []
            if self.training and self.crash_after == len(self.trained):
                raise Crash
        self.training = False
        return arrived

    def wait(self, sites: Collection[str], seconds: float) -> bool:
        return False

    @property
    def trained(self) -> list[Upload]:
        """Uploads of training stages."""
        return [u for u in self.uploads if u.stage != "evaluate"]

    def _answer(self, download: Download) -> Upload:
        if self.wire:
            download = unpack_download(pack_download(download, self.transfer))
        upload = self.sites[download.site].answer(download)
        if self.wire:
            upload = unpack_upload(pack_upload(upload, self.transfer))
        self.downloads.append(download)
        self.uploads.append(upload)
        return upload


@dataclass
class Finished:
    """A run that came to its end."""

    folder: Path
    run: RunConfig
    exchange: Watched

    @property
    def results(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return loaded

    @property
    def digest(self) -> str:
        return str(self.results["weights_sha256"])

    @property
    def rounds(self) -> list[dict[str, Any]]:
        lines = (self.folder / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def open_sites(run: RunConfig, folder: Path) -> dict[str, Site]:
    """Open the sites of a run as a new process would: without a model from earlier."""
    from fedssl import site as site_module

    site_module._MODELS.clear()
    federation = load_federation(run)
    return {
        spec.name: Site(spec, federation.task, run, folder / "sites" / spec.name)
        for spec in federation.sites
    }


def run_watched(
    run: RunConfig, folder: Path, *, progress: Silent | None = None, **watch: Any
) -> Finished:
    """Run a federation in this process through a `Watched` exchange."""
    return run_through(Watched(open_sites(run, folder), **watch), run, folder, progress)


def run_through(
    exchange: Watched, run: RunConfig, folder: Path, progress: Silent | None = None
) -> Finished:
    """Run a federation through an exchange that is there already."""
    run_federation(run, exchange, folder, progress=progress or Silent())
    return Finished(folder, run, exchange)
