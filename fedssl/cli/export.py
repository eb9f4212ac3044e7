"""`fedssl export`: a run's network for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedssl.cli.options import friendly_errors

__all__ = ["export_command"]


class Target(StrEnum):
    """Forms of an export; `fedssl.export.write` has the same."""

    BUNDLE = "bundle"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the export.")],
    to: Annotated[
        Target, typer.Option("--to", help="MONAI bundle, TorchScript or ONNX.")
    ] = Target.BUNDLE,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="State directory, where a method keeps layers at the site."),
    ] = None,
) -> None:
    """Export a network with its model card, after comparing it with the original."""
    with friendly_errors():
        from fedssl.export.write import Form, export_run

        metadata = export_run(run, Form(to.value), out, state=state)
        checks = metadata["fedssl"]["verified"]
        typer.echo(
            f"{out}: {to.value}, weights {metadata['fedssl']['weights_sha256'][:12]}; "
            + ", ".join(f"{name} differs by {value:.2g}" for name, value in checks.items())
            + " from the original on random input."
        )
