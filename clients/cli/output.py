"""What all subcommands share: the site file, --json, and how an error is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedssl.errors import FedsslError, told

__all__ = ["JsonOption", "SiteFileArgument", "reported", "show"]

SiteFileArgument = Annotated[
    Path, typer.Argument(help="The site's file, as `fedssl-client init` writes it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Tell a deliberate error, or a disk's, as one message and exit with status 1."""
    try:
        yield
    except (FedsslError, OSError) as error:
        message = told(error)
        if not message:
            raise
        if as_json:
            show({"ok": False, "error": message})
        else:
            typer.secho(f"Error: {message}", err=True, fg="red")
        raise typer.Exit(1) from None


def show(answer: dict[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
