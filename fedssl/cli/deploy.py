"""`fedssl deploy`: folders to hand out, for the coordinator and for each hospital."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.cli.options import friendly_errors

if TYPE_CHECKING:
    from fedssl.deploy.spec import DeploySpec

__all__ = ["deploy_command"]


def deploy_command(
    spec: Annotated[
        Path | None,
        typer.Argument(help="Federation file with a [coordinator] table, or use the options."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the kits.")] = Path(
        "kits"
    ),
    host: Annotated[str, typer.Option("--host", help="Public name of the coordinator.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port that sites connect to.")] = 443,
    site: Annotated[list[str] | None, typer.Option("--site", help="NAME=ROLE; repeatable.")] = None,
    classes: Annotated[
        str, typer.Option("--classes", help="Names by comma, background first.")
    ] = "background,foreground",
    mode: Annotated[str, typer.Option("--mode", help="2d, slices, 2.5d or 3d.")] = "2d",
    channels: Annotated[int, typer.Option("--channels", help="1 grey, 3 colour.")] = 1,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Folder that `fedssl keys` made.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write one folder for the coordinator and one per hospital, with keys and five steps each."""
    with friendly_errors():
        from fedssl.deploy.kit import write_kits
        from fedssl.deploy.spec import load_deploy_spec, spec_from_options

        if spec is not None:
            deployment: DeploySpec = load_deploy_spec(spec)
        else:
            deployment = spec_from_options(
                host, port, classes, site or [], mode=mode, channels=channels
            )
        kits = write_kits(deployment, out, keys)
    if as_json:
        folders = {name: str(path) for name, path in kits.sites.items()}
        answer = {"folder": str(kits.folder), "coordinator": str(kits.coordinator)}
        typer.echo(json.dumps({**answer, "sites": folders}, indent=2))
        return
    typer.echo(f"coordinator: {kits.coordinator}")
    for name, path in kits.sites.items():
        typer.echo(f"{name}: {path}")
    typer.echo("Each folder holds a README.md with five steps. Site folders hold private keys.")
