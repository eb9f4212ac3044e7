"""`fedssl simulate`: a whole federation in this process."""

from __future__ import annotations

import logging

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
)

__all__ = ["simulate_command"]


def simulate_command(
    federation: FederationOption = None,
    method: MethodOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a federation in this process, without Flower: fastest on one device."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with friendly_errors():
        flat = collect(federation, method, rounds, seed, config, assignments)
        from fedssl.loopback import simulate
        from fedssl.methods import load_config
        from fedssl.report.progress import run_progress

        run, folder = absolute(load_config(flat), out)
        run = run.model_copy(update={"resume": resume or run.resume})
        try:
            simulate(run, folder, progress=run_progress(run, folder))
        except KeyboardInterrupt:
            typer.secho(f"Interrupted; --resume goes on with {folder}.", err=True)
            raise typer.Exit(130) from None
