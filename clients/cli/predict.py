"""`fedssl-client predict`: masks for a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, reported, show

__all__ = ["predict_command"]


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder: config.toml, results.json, model.")],
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Annotated[Path, typer.Argument(help="New folder for the masks.")],
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    state: Annotated[
        Path | None,
        typer.Option("--state", help="State directory, where a method keeps layers at the site."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one mask of class indices per image, on the image's own grid and in its format."""
    with reported(as_json):
        from fedssl.predict import Prediction, load_trained, predict_folder

        def told(prediction: Prediction) -> None:
            if not as_json:
                typer.echo(f"{prediction.image.name} -> {prediction.mask}")

        trained = load_trained(run, device=device, state=state)
        written = predict_folder(trained, images, out, progress=told)
    if as_json:
        rows = [{"image": str(p.image), "mask": str(p.mask), "voxels": p.voxels} for p in written]
        show({"ok": True, "classes": list(trained.task.classes), "masks": rows})
    else:
        typer.echo(
            f"{len(written)} masks in {out}; {', '.join(trained.task.classes)} are 0, 1, ..."
        )
