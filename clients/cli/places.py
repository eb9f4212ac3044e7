"""Which sites a command is about: a site file, a federation file, or the folder that holds one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.errors import FederationError

if TYPE_CHECKING:
    from fedssl.federation import SiteSpec
    from fedssl.types import Task

__all__ = ["DataRootOption", "OnlyOption", "PlaceArgument", "find_sites"]

PlaceArgument = Annotated[
    str,
    typer.Argument(help="site.toml, federation.toml, or the folder that holds one of them."),
]
OnlyOption = Annotated[
    str, typer.Option("--site", help="Of a federation file: only these sites, by comma.")
]
DataRootOption = Annotated[
    str,
    typer.Option("--data-root", help="Where relative paths of a federation file start."),
]


def find_sites(place: str, only: str = "", data_root: str = "") -> tuple[Task, list[SiteSpec]]:
    """Return the task and the sites that a file describes.

    Args:
        place: a site file (it has a [node] table), a federation file, a folder with site.toml or
            federation.toml, or the name of a synthetic federation.
        only: names of sites, by comma; empty: all.
        data_root: see the run key of that name.

    Raises:
        FederationError, ConfigError: no such file, or it is wrong.
    """
    from fedssl.config import RunConfig
    from fedssl.federation import load_federation, load_site_file

    path = Path(place)
    if path.is_dir():
        path = _inside(path)
        place = str(path)
    if path.is_file() and _is_site_file(path):
        task, spec = load_site_file(path)
        return task, [spec]
    run = RunConfig(federation=place, sites=only, data_root=data_root)
    federation = load_federation(run)
    return federation.task, list(federation.sites)


def _inside(folder: Path) -> Path:
    for name in ("site.toml", "federation.toml"):
        if (folder / name).is_file():
            return folder / name
    raise FederationError(
        f"{folder} holds neither site.toml nor federation.toml. 'fedssl-client init' writes a site "
        "file; 'path' in it names the folder of the images."
    )


def _is_site_file(path: Path) -> bool:
    try:
        return "node" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it tells what is wrong
