"""`fedssl-client predict`: masks for a folder of images."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, reported, show
from fedssl.errors import ConfigError

__all__ = ["predict_command"]


def predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder: config.toml, results.json, model.")],
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Annotated[Path, typer.Argument(help="Folder for the masks.")],
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    state: Annotated[
        Path | None,
        typer.Option("--state", help="State directory, where a method keeps layers at the site."),
    ] = None,
    spacing: Annotated[
        str,
        typer.Option(
            "--spacing",
            help="mm per axis of every image, x,y or x,y,z as in the file, e.g. 0.5,0.5,3.0; "
            "without it the files' headers tell.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write one mask of class indices per image, on the image's own grid and in its format.

    Images whose mask exists are skipped, so the same command goes on after a failure.
    """
    skipped = 0

    def passed_over(count: int) -> None:
        nonlocal skipped
        skipped = count
        if not as_json:
            typer.echo(f"{count} images are skipped: {out} holds their masks already.")

    with reported(as_json):
        from fedssl.predict import Prediction, load_trained, predict_folder

        def told(prediction: Prediction) -> None:
            if not as_json:
                typer.echo(f"{prediction.image.name} -> {prediction.mask}")

        trained = load_trained(run, device=device, state=state)
        written = predict_folder(
            trained, images, out, spacing=_lengths(spacing), progress=told, skipped=passed_over
        )
    if as_json:
        rows = [{"image": str(p.image), "mask": str(p.mask), "voxels": p.voxels} for p in written]
        classes = list(trained.task.classes)
        show({"ok": True, "classes": classes, "masks": rows, "skipped": skipped})
    else:
        typer.echo(
            f"{len(written) + skipped} masks in {out}; "
            f"{', '.join(trained.task.classes)} are 0, 1, ..."
        )


def _lengths(text: str) -> tuple[float, ...] | None:
    """Return mm per axis; None where nothing is given."""
    if not text:
        return None
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3) or not all(0 < number < inf for number in numbers):
        raise ConfigError(
            f"--spacing {text!r} are no lengths; give the mm between neighbours along x,y "
            "(pictures) or x,y,z (volumes), e.g. 0.5,0.5,3.0."
        )
    return numbers
