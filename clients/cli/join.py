"""`fedssl-client join`: connect this site, and stay connected."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, SiteFileArgument, reported, show

__all__ = ["join_command"]


def join_command(
    site_file: SiteFileArgument = Path("site.toml"),
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the commands and do not start them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start this site's SuperNode and the launcher that checks received code; Ctrl-C leaves.

    Both are started again when they end, so the site survives a restart of the coordinator.
    """
    with reported(as_json):
        from clients.supervise import keep_running, node_of
        from fedssl.deploy.site_file import load_node
        from fedssl.federation import load_site_file

        _, site = load_site_file(site_file)
        spec = load_node(site_file)
        node = node_of(site_file, spec)
        commands = {"supernode": node.supernode, "launcher": node.launcher}
        if as_json:
            show({"ok": True, "site": site.name, "role": site.role.value, **commands})
        else:
            typer.echo(f"Site {site.name} ({site.role.value}) joins {spec.coordinator}:")
            typer.echo(f"  {shlex.join(node.supernode)}")
            typer.echo(f"  {shlex.join(node.launcher)}")
        if not print_only:
            keep_running(node, lambda text: typer.echo(text, err=True))
