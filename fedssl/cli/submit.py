"""`fedssl submit`: a federation over the network, on a SuperLink that runs already."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.cli.options import (
    ConfigOption,
    MethodOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    SetOption,
    collect,
    friendly_errors,
    interrupt,
)

if TYPE_CHECKING:
    from fedssl.cli.superlink import RunStatus, SuperLink
    from fedssl.deploy.nodes import Node

__all__ = ["register_nodes", "submit_command", "watch"]

GONE = 600.0
"""Seconds that a SuperLink may be away before its run is given up."""


def submit_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder on the coordinator.")],
    superlink: Annotated[
        str, typer.Option("--superlink", help="host:port of the SuperLink itself, not its proxy.")
    ] = "127.0.0.1:8000",
    root_certificates: Annotated[
        Path | None, typer.Option("--root-certificates", help="Authority; default: no TLS.")
    ] = None,
    nodes: Annotated[
        Path | None, typer.Option("--nodes", help="Registration list; registers what is new.")
    ] = None,
    method: MethodOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Register the sites' keys, start a run and follow it; the exit status tells how it ended.

    The sites are those that are connected; each reads its own site file.
    """
    signal.signal(signal.SIGTERM, interrupt)
    with friendly_errors():
        from fedssl.app_config import stage_app
        from fedssl.cli.superlink import remote_superlink
        from fedssl.config import flatten
        from fedssl.deploy.nodes import read_registration
        from fedssl.methods import load_config

        run = load_config(collect(None, method, rounds, seed, config, assignments))
        update = {"out": str(out.absolute()), "resume": resume or run.resume}
        listed = read_registration(nodes) if nodes else []
        with remote_superlink(superlink, root_certificates) as link:
            for site in register_nodes(link, listed):
                typer.echo(f"registered {site}")
            flat = flatten(run.model_copy(update=update))
            number = link.submit(stage_app(link.folder / "app"), flat, {})
            typer.echo(f"run {number}")
            end = watch(link, number)
    if not end.completed:
        typer.secho(f"The run is {end.status}. {end.details}", err=True, fg="red")
    raise typer.Exit(0 if end.completed else 1)


def register_nodes(link: SuperLink, nodes: Sequence[Node]) -> list[str]:
    """Register public keys; return the sites that were new.

    Raises:
        FederationError: a key is refused for another reason than being known.
    """
    from fedssl.cli.superlink import CONNECTION
    from fedssl.errors import FederationError

    new = []
    for node in nodes:
        command = ["supernode", "register", str(node.public_key.resolve()), CONNECTION]
        answer = link.flwr([*command, "--name", node.site, "--format", "json"])
        if answer.get("success"):
            new.append(node.site)
        elif "already in use" not in str(answer):
            raise FederationError(
                f"The key of site {node.site!r} is not registered: "
                f"{answer.get('error-message', answer)}"
            )
    return new


def watch(link: SuperLink, number: str) -> RunStatus:
    """Print a run's log until it ends; a SuperLink that restarts in between is waited for."""
    from fedssl.cli.superlink import CONNECTION

    printed, seen = 0, time.monotonic()
    try:
        while True:
            for count, line in enumerate(link.follow(number)):
                # After a restart the log comes from its beginning.
                if count >= printed:
                    typer.echo(line, nl=False)
                    printed = count + 1
            end = link.status(number, patience=5.0)
            if end.status.startswith("finished"):
                return end
            if end.status != "unknown":
                seen = time.monotonic()
            elif time.monotonic() - seen > GONE:
                return end
    except KeyboardInterrupt:
        link.flwr(["stop", number, CONNECTION, "--format", "json"])
        typer.secho("Interrupted; the run is stopped. --resume goes on with it.", err=True)
        raise typer.Exit(130) from None
