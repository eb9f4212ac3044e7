"""`fedssl keys`: a private CA, the coordinator's certificate, and a key pair per site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedssl.cli.options import friendly_errors

__all__ = ["keys_command"]


def keys_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the keys.")] = Path("keys"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="Public name or address of the coordinator; repeatable. Makes a CA."
        ),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", help="Site that gets a key pair; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make keys and certificates; nothing is ever overwritten.

    Run it again to add sites. A hospital that makes its own pair runs it without --host and sends
    the .pub file only.
    """
    with friendly_errors():
        from fedssl.deploy.keyring import extend_keyring

        ring = extend_keyring(out, hosts=host or [], sites=site or [])
    if as_json:
        files = [str(path) for path in ring.written]
        typer.echo(json.dumps({"folder": str(ring.folder), "written": files}, indent=2))
        return
    for path in ring.written:
        typer.echo(f"wrote {path}")
    if ring.authority:
        typer.echo("Keep ca.key offline: whoever holds it can pass for the coordinator.")
