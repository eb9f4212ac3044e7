"""`fedssl-client prepare`: read, resample and normalise once, before a round waits for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.output import JsonOption, reported, show
from clients.cli.places import DataRootOption, OnlyOption, PlaceArgument, cache_of, find_sites
from clients.cli.progress import bars

if TYPE_CHECKING:
    from clients.cli.progress import Tell
    from fedssl.data.prepare import PreparePlan
    from fedssl.federation import SiteSpec
    from fedssl.types import Task

__all__ = ["prepare_command"]

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The run's TOML file or a plan; other runs prepare anew."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A key of the run, e.g. image-size=256.")
]


def prepare_command(
    place: PlaceArgument = "site.toml",
    config: ConfigOption = None,
    assignments: SetOption = None,
    only: OnlyOption = "",
    data_root: DataRootOption = "",
    as_json: JsonOption = False,
) -> None:
    """Prepare all images as a run asks for; training then reads the prepared arrays only.

    Finished work is found again by the files' contents and the run's keys, so this can be started
    as often as one likes; only what has changed is done anew.
    """
    with reported(as_json):
        from fedssl.cli.options import collect
        from fedssl.data.prepare import PreparePlan
        from fedssl.federation import in_mode
        from fedssl.methods import load_config

        run = load_config(collect(None, None, None, None, config, assignments))
        task, sites = find_sites(place, only, data_root)
        task = in_mode(task, run.mode)
        plan, cache = PreparePlan.from_run(run, task), cache_of(place, run)
        done = []
        with bars("prepare") as tell:
            for site in sites:
                done.append(_prepare(site, task, plan, cache, tell))
                if not as_json:
                    typer.echo(done[-1].line())
    if as_json:
        show({"ok": True, "cache": str(cache), "sites": [site.row() for site in done]})


@dataclass(frozen=True, slots=True)
class _Done:
    site: str
    folder: Path
    cases: int
    size: int
    seconds: float
    prepared: int

    def line(self) -> str:
        what = f"{self.cases} cases, {self.size / 1e6:.1f} MB"
        if not self.prepared:
            return f"{self.site}: {what}, were prepared already"
        return f"{self.site}: {what}, prepared in {self.seconds:.1f} s"

    def row(self) -> dict[str, object]:
        return {
            "site": self.site,
            "folder": str(self.folder),
            "cases": self.cases,
            "bytes": self.size,
            "prepared": self.prepared,
            "seconds": round(self.seconds, 3),
        }


def _prepare(site: SiteSpec, task: Task, plan: PreparePlan, cache: Path, tell: Tell) -> _Done:
    from fedssl.data.prepare import prepare
    from fedssl.data.source import open_source

    start, counted = time.perf_counter(), [0]

    def progress(done: int, total: int) -> None:
        counted[0] = done
        tell(site.name, done, total)

    prepared = prepare(open_source(site, task), plan, cache, progress)
    size = sum(path.stat().st_size for path in prepared.folder.iterdir())
    seconds = time.perf_counter() - start
    return _Done(site.name, prepared.folder, len(prepared.cases), size, seconds, counted[0])
