"""Which sites a command is about: a site file, a federation file, or the folder that holds one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedssl.errors import FederationError

if TYPE_CHECKING:
    from fedssl.config import RunConfig
    from fedssl.federation import SiteSpec
    from fedssl.types import Task

__all__ = ["DataRootOption", "OnlyOption", "PlaceArgument", "cache_of", "find_sites"]

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

    path = _file(place)
    if _is_site_file(path):
        task, spec = load_site_file(path)
        if data_root or only not in ("", spec.name):
            raise FederationError(
                f"{path} describes the site {spec.name!r} with its own path; --site and "
                "--data-root are for a federation file. Leave them out."
            )
        return task, [spec]
    federation = str(path) if path.is_file() else place
    run = RunConfig(federation=federation, sites=only, data_root=data_root)
    found = load_federation(run)
    return found.task, list(found.sites)


def cache_of(place: str, run: RunConfig) -> Path:
    """Return where the sites of a file look for prepared images when they train.

    A site file names its state directory; in simulation the run's `cache-dir` counts.
    """
    from fedssl.data.cache import default_cache_dir
    from fedssl.deploy.site_file import load_node

    path = _file(place)
    if _is_site_file(path):
        return Path(load_node(path).state_dir) / "cache"
    return Path(run.cache_dir) if run.cache_dir else default_cache_dir()


def _file(place: str) -> Path:
    path = Path(place)
    return _inside(path) if path.is_dir() else path


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
