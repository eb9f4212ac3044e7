"""`fedssl plan`: one plan for all sites, from what they tell of their data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.cli.options import friendly_errors

if TYPE_CHECKING:
    from fedssl.data.summary import Summary

__all__ = ["plan_command"]

SummaryOption = Annotated[
    list[Path] | None,
    typer.Option("--summary", help="What `fedssl-client check --summary` wrote; once per site."),
]
MemoryOption = Annotated[
    str, typer.Option("--memory", help="Of the smallest machine or GPU that trains, e.g. 8GB.")
]


def plan_command(
    federation: Annotated[
        str | None, typer.Argument(help="federation.toml, whose sites are read here.")
    ] = None,
    summary: SummaryOption = None,
    memory: MemoryOption = "8GB",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New file; default: print it.")
    ] = None,
    data_root: Annotated[
        str, typer.Option("--data-root", help="Where relative paths of the sites start.")
    ] = "",
) -> None:
    """Derive spacing, size, normalisation, mode and network; sites give counts and histograms."""
    with friendly_errors():
        from fedssl.data.summary import merge, read_summary
        from fedssl.errors import ConfigError
        from fedssl.plan_file import plan_toml
        from fedssl.planning import derive_plan, parse_memory

        allowed = parse_memory(memory)
        if bool(federation) == bool(summary):
            raise ConfigError(
                "Give a federation file, whose sites are on this machine, or --summary once per "
                "site; not both."
            )
        if out is not None and out.exists():
            raise ConfigError(f"{out} exists already and may have been edited; give a new file.")
        named = ""
        if federation:
            parts, named = _read_sites(federation, data_root)
        else:
            parts = [read_summary(path) for path in summary or []]
        merged = merge(parts)
        text = plan_toml(derive_plan(merged, allowed), merged, len(parts), named)
        if out is not None:
            _write(out, text)
    if out is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"Wrote {out}. Look through it; then e.g. fedssl simulate --config {out}")


def _read_sites(federation: str, data_root: str) -> tuple[list[Summary], str]:
    """Return the summary of each site, and the federation as a run names it from anywhere."""
    from fedssl.config import RunConfig
    from fedssl.data.check import check_site
    from fedssl.errors import DataError
    from fedssl.federation import load_federation

    found = load_federation(RunConfig(federation=federation, data_root=data_root))
    parts = []
    for site in found.sites:
        report = check_site(site, found.task)
        if report.errors:
            first = report.findings[0]
            raise DataError(
                f"Site {site.name!r} has {report.errors} errors, e.g. {first.file}: {first.detail} "
                f"{first.remedy} `fedssl-client check {federation}` lists all."
            )
        parts.append(report.summary())
        typer.echo(f"{site.name}: {report.cases} cases read", err=True)
    path = Path(federation)
    return parts, str(path.resolve()) if path.is_file() else federation


def _write(path: Path, text: str) -> None:
    from fedssl.memory import write_atomically

    write_atomically(path, text.encode())
