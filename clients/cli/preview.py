"""`fedssl-client preview`: look at what a network would teach itself from this site's images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, reported, show

__all__ = ["preview_command"]


def preview_command(
    site_file: Annotated[Path, typer.Argument(help="The site's file.")],
    run: Annotated[Path, typer.Argument(help="Run folder with the trained network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path(
        "preview"
    ),
    most: Annotated[int, typer.Option("--cases", min=1, help="How many cases.")] = 8,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a PNG per case: image, pseudo-label, uncertainty, trust mask. They stay here."""
    rows = []
    with reported(as_json):
        from fedssl.deploy.site_file import load_node
        from fedssl.federation import in_mode, load_site_file
        from fedssl.memory import write_atomically
        from fedssl.predict import load_trained
        from fedssl.pseudo import pseudo_label_site
        from fedssl.report.pseudo_picture import pseudo_picture

        task, spec = load_site_file(site_file)
        state = Path(load_node(site_file).state_dir)
        trained = load_trained(run, device=device, state=state)
        task = in_mode(task, trained.run.mode)
        with pseudo_label_site(trained, spec, task, state / "cache", most=most) as site:
            for index in site.cases:
                case = site.case(index)
                path = out / f"{case.name}.png"
                write_atomically(path, pseudo_picture(case, task))
                rows.append(
                    {
                        "case": case.name,
                        "picture": str(path),
                        "predicted_dice": round(case.predicted_dice, 4),
                        "trusted": round(case.trusted, 4),
                    }
                )
                if not as_json:
                    numbers = (
                        f"predicted Dice {case.predicted_dice:.3f}, trusted {case.trusted:.1%}"
                    )
                    typer.echo(f"{path}: {numbers}")
    if as_json:
        show({"ok": True, "cases": rows})
