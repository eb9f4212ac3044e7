"""`fedssl-client doctor`: what keeps this site from taking part, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from clients.cli.output import JsonOption, SiteFileArgument, reported, show

if TYPE_CHECKING:
    from clients.doctor.finding import Finding

__all__ = ["doctor_command"]

COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


def doctor_command(
    site_file: SiteFileArgument = Path("site.toml"),
    as_json: JsonOption = False,
) -> None:
    """Check this machine and the way to the coordinator; exit status 1 if something fails."""
    findings: list[Finding] = []
    with reported(as_json):
        for finding in _findings(site_file):
            findings.append(finding)
            if not as_json:
                _print(finding)
    failed = [f.check for f in findings if f.level == "fail"]
    if as_json:
        rows = [
            {"check": f.check, "level": f.level.value, "detail": f.detail, "remedy": f.remedy}
            for f in findings
        ]
        show({"ok": not failed, "findings": rows})
    elif failed:
        typer.secho(f"Not ready: {', '.join(failed)}.", fg="red")
    else:
        typer.secho("Ready to join.", fg="green")
    raise typer.Exit(1 if failed else 0)


def _findings(site_file: Path) -> Iterator[Finding]:
    from clients.doctor import machine
    from clients.doctor.finding import good
    from clients.doctor.network import check_network
    from fedssl.deploy.site_file import load_node
    from fedssl.federation import load_site_file

    _, site = load_site_file(site_file)
    node = load_node(site_file)
    yield good("site file", f"{site.name} ({site.role.value})")
    yield machine.check_data(site)
    yield machine.check_key(node)
    yield machine.check_code_policy(node)
    yield machine.check_disk(node)
    yield machine.check_memory()
    yield machine.check_gpu()
    yield machine.check_port(node)
    yield from check_network(node)
    yield machine.check_versions(site_file)


def _print(finding: Finding) -> None:
    mark = typer.style(f"{finding.level.value:>5}", fg=COLOURS[finding.level.value])
    typer.echo(f"{mark}  {finding.check}: {finding.detail}")
    if finding.remedy:
        typer.echo(f"       -> {finding.remedy}")
