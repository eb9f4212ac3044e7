"""`fedssl run`: a federation on Flower's simulation engine (Ray), on a private SuperLink."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.cli.options import (
    ConfigOption,
    FederationOption,
    MethodOption,
    OutOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    SetOption,
    absolute,
    collect,
    friendly_errors,
    interrupt,
)

if TYPE_CHECKING:
    from fedssl.config import RunConfig, Scalar

__all__ = ["run_command"]

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Sites that train at the same time; default: by CPUs."),
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus", min=0, help="GPUs per site, e.g. 0.25; default: shared by the workers."),
]


def run_command(
    federation: FederationOption = None,
    method: MethodOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    resume: ResumeOption = False,
    workers: WorkersOption = None,
    gpus: GpusOption = None,
) -> None:
    """Train a federation on Flower and Ray; the exit status tells whether the run completed."""
    signal.signal(signal.SIGTERM, interrupt)
    with friendly_errors():
        flat = collect(federation, method, rounds, seed, config, assignments)
        from fedssl.federation import load_federation
        from fedssl.methods import load_config

        run, _ = absolute(load_config(flat), out)
        run = run.model_copy(update={"resume": resume or run.resume})
        sites = len(load_federation(run).sites)
        completed = _run_on_flower(run, _resources(run, sites, workers, gpus))
    raise typer.Exit(0 if completed else 1)


def _run_on_flower(run: RunConfig, nodes: dict[str, Scalar]) -> bool:
    from fedssl.app_config import stage_app
    from fedssl.cli.superlink import superlink
    from fedssl.config import flatten

    try:
        with superlink(simulation=True) as link:
            number = link.submit(stage_app(link.folder / "app"), flatten(run), nodes)
            for line in link.follow(number):
                typer.echo(line, nl=False)
            end = link.status(number)
    except KeyboardInterrupt:
        typer.secho("Interrupted; the run is stopped. --resume goes on with it.", err=True)
        raise typer.Exit(130) from None
    if not end.completed:
        typer.secho(f"The run is {end.status}. {end.details}", err=True, fg="red")
    return end.completed


def _resources(
    run: RunConfig, sites: int, workers: int | None, gpus: float | None
) -> dict[str, Scalar]:
    """Return Flower's federation config: one node per site, and how many run at a time."""
    at_a_time = workers or max(1, min(sites, (os.cpu_count() or 1) // run.threads))
    return {
        "num-supernodes": sites,
        "client-resources-num-cpus": 1,
        "client-resources-num-gpus": _gpus_per_site(run, at_a_time) if gpus is None else gpus,
        "init-args-num-cpus": at_a_time,
    }


def _gpus_per_site(run: RunConfig, workers: int) -> float:
    """Share the GPUs evenly; a site that is given none does not see any."""
    import torch

    if run.device == "cpu" or not torch.cuda.is_available():
        return 0.0
    return min(1.0, torch.cuda.device_count() / workers)
