"""`fedssl-client pseudo`: pseudo-labels out for correction, corrected masks in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, reported, show

__all__ = ["pseudo_app"]

pseudo_app = typer.Typer(
    help="Pseudo-labels out, for correction in ITK-SNAP, 3D Slicer or MONAI Label; masks in.",
    no_args_is_help=True,
)


@pseudo_app.command("export")
def export_command(
    site_file: Annotated[Path, typer.Argument(help="The site's file.")],
    run: Annotated[Path, typer.Argument(help="Run folder with the trained network.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder.")] = Path("pseudo"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write labels/, trust/ and index.csv, where the case with the lowest quality comes first."""
    with reported(as_json):
        from fedssl.data.source import FolderSource
        from fedssl.deploy.site_file import load_node
        from fedssl.federation import in_mode, load_site_file
        from fedssl.predict import load_trained
        from fedssl.pseudo import pseudo_label_site
        from fedssl.pseudo_export import export_pseudo_labels

        task, spec = load_site_file(site_file)
        state = Path(load_node(site_file).state_dir)
        trained = load_trained(run, device=device, state=state)
        task = in_mode(task, trained.run.mode)
        source = FolderSource(spec, task)
        with pseudo_label_site(trained, spec, task, state / "cache") as site:
            exported = export_pseudo_labels(site, source, out)
    if as_json:
        rows = [
            {"rank": e.rank, "case": e.case, "label": str(e.label), "trust": str(e.trust)}
            | {"predicted_dice": round(e.predicted_dice, 4), "trusted": round(e.trusted, 4)}
            for e in exported
        ]
        show({"ok": True, "folder": str(out), "cases": rows})
        return
    typer.echo(f"{len(exported)} pseudo-labels in {out}; begin with these:")
    for e in exported[:5]:
        typer.echo(f"  {e.rank}. {e.label}  predicted Dice {e.predicted_dice:.3f}")


@pseudo_app.command("import")
def import_command(
    site_file: Annotated[Path, typer.Argument(help="The site's file; it becomes a mixed site.")],
    corrected: Annotated[Path, typer.Argument(help="Folder of corrected masks, or of the export.")],
    unchanged_too: Annotated[
        bool, typer.Option("--unchanged-too", help="Use masks that nobody changed as well.")
    ] = False,
    site_file_out: Annotated[
        Path | None,
        typer.Option("--site-file-out", help="Write the changed site file here, leave the old."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check corrected masks against their images and train on them from the next run on.

    A site file that cannot be written here, as one that is mounted read-only into a container,
    stays as it is; the changed one is written into the state directory, to be put in its place.
    """
    with reported(as_json):
        from fedssl.deploy.site_file import load_node
        from fedssl.pseudo_export import import_corrections

        state = Path(load_node(site_file).state_dir)
        done = import_corrections(
            site_file, corrected, state, unchanged_too=unchanged_too, out=site_file_out
        )
    in_place = done.site_file == site_file
    if as_json:
        counts = {"cases": done.cases, "new": done.new, "unchanged": done.unchanged}
        files = {"site_file": str(done.site_file), "in_place": in_place}
        show({"ok": True, "folder": str(done.folder), **counts, **files})
        return
    typer.echo(f"{len(done.new)} masks taken over, {len(done.unchanged)} unchanged ones left out.")
    typer.echo(f"The site has {len(done.cases)} masks now, in {done.folder}.")
    if in_place:
        typer.echo(f"{site_file} makes it a mixed site; the old text is in {site_file}.bak.")
    else:
        typer.echo(f"{site_file} is as it was. Put {done.site_file} in its place: mixed site.")
    typer.echo("Restart `fedssl-client join` so that it is read again.")
