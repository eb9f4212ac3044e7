"""`fedssl methods`: one line per method."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["methods_command"]


def methods_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods that can be named in `method`."""
    from fedssl.methods import METHODS

    if as_json:
        typer.echo(json.dumps({name: m.summary for name, m in METHODS.items()}, indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, method in METHODS.items():
        table.add_row(name, method.summary)
    Console().print(table)
