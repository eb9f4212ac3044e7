"""`fedssl-client init`: write a commented site file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.output import JsonOption, SiteFileArgument, reported, show

__all__ = ["init_command"]


def init_command(
    site_file: SiteFileArgument = Path("site.toml"),
    name: Annotated[str, typer.Option("--name", help="Name of the site.")] = "my-site",
    role: Annotated[str, typer.Option("--role", help="labeled, unlabeled or mixed.")] = "unlabeled",
    data: Annotated[str, typer.Option("--data", help="Folder of the images.")] = "data",
    layout: Annotated[
        str, typer.Option("--layout", help="How it is arranged; 'list' tells the known ones.")
    ] = "folders",
    option: Annotated[
        list[str] | None, typer.Option("--option", help="key=value of the layout; repeatable.")
    ] = None,
    coordinator: Annotated[
        str, typer.Option("--coordinator", help="host:port of the coordinator.")
    ] = "fl.example.org:443",
    classes: Annotated[
        str, typer.Option("--classes", help="Names by comma, background first.")
    ] = "background,foreground",
    mode: Annotated[str, typer.Option("--mode", help="2d, slices, 2.5d or 3d.")] = "2d",
    output: Annotated[str, typer.Option("--output", help="exclusive or nested.")] = "exclusive",
    channels: Annotated[int, typer.Option("--channels", help="1 grey, 3 colour.")] = 1,
    task: Annotated[str, typer.Option("--task", help="Name of the task.")] = "segmentation",
    certificates: Annotated[
        str, typer.Option("--certificates", help="The coordinator's authority; '' for none.")
    ] = "keys/ca.crt",
    key: Annotated[str, typer.Option("--key", help="This node's key; '' for none.")] = (
        "keys/node.key"
    ),
    as_json: JsonOption = False,
) -> None:
    """Write a site file with a comment on every key; an existing one is left alone."""
    if layout == "list":
        _list_layouts(as_json)
        return
    with reported(as_json):
        from fedssl.data.layouts.choose import typed_options
        from fedssl.deploy.site_file import SiteDraft, write_site_file

        names = [c.strip() for c in classes.split(",") if c.strip()]
        about = {"name": task, "classes": names, "mode": mode, "output": output}
        draft = SiteDraft(
            name=name,
            role=role,
            task={**about, "channels": channels},
            coordinator=coordinator,
            path=data,
            layout=layout,
            options=typed_options(layout, option or []),
            root_certificates=certificates,
            key=key,
        )
        write_site_file(site_file, draft)
    if as_json:
        show({"ok": True, "site_file": str(site_file)})
    else:
        typer.echo(
            f"Wrote {site_file}. Look through it, then run: fedssl-client doctor {site_file}"
        )


def _list_layouts(as_json: bool) -> None:
    from fedssl.data.layouts import LAYOUTS

    known = {name: dict(layout.options) for name, layout in LAYOUTS.items()}
    if as_json:
        show({"ok": True, "layouts": known})
        return
    for name, options in known.items():
        typer.echo(name)
        for key, meaning in options.items():
            typer.echo(f"  --option {key}=...  {meaning}")
