"""The Flower side of pyproject.toml, made from the typed configuration.

`python -m fedssl.app_config`, run beside pyproject.toml, rewrites these tables in it; a test
asserts that they are up to date.
Flower accepts an override on the command line only for a key that stands there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fedssl import __version__
from fedssl.config import RunConfig, Scalar, flatten
from fedssl.errors import ConfigError
from fedssl.fingerprint import package_folders
from fedssl.methods import METHODS
from fedssl.results import config_toml

__all__ = [
    "MARKER",
    "app_block",
    "declared_requirements",
    "default_config",
    "stage_app",
    "uv_block",
    "with_blocks",
]

MARKER: Final = "# From here on generated: `python -m fedssl.app_config`."
"""Line of pyproject.toml after which nothing is written by hand."""

APP: Final = """\
[tool.flwr.app]
publisher = "fedssl"
fab-include = ["fedssl/**/*.py", "clients/**/*.py", "server/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
"""


def default_config() -> dict[str, Scalar]:
    """Return every key of a run with its default, those of all methods included.

    Only `federation` differs from `RunConfig`: a bare `flwr run .` simulates two nodes.
    """
    flat = flatten(RunConfig()) | {"federation": "synthetic-pair"}
    for name, method in METHODS.items():
        flat |= flatten(method.config(), f"{name}.")
    return flat


def app_block(flat: Mapping[str, Scalar] | None = None) -> str:
    """Return the `[tool.flwr.app...]` tables of pyproject.toml.

    Args:
        flat: configuration to write, by default `default_config()`.
    """
    body = config_toml(default_config() if flat is None else flat)
    tables = body.replace("\n[", "\n[tool.flwr.app.config.")
    return f"{APP}\n[tool.flwr.app.config]\n{tables}"


def stage_app(folder: Path) -> Path:
    """Lay out the running code as a Flower app, so that `flwr run` ships exactly this code.

    Works from a checkout and from an installed wheel, and leaves the user's files alone.

    Args:
        folder: an empty or missing folder to write to.

    Returns:
        The app's folder, inside `folder`.
    """
    app = folder / "fedssl"
    for package in package_folders():
        for source in package.rglob("*.py"):
            target = app / source.relative_to(package.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    project = f'[project]\nname = "fedssl"\nversion = "{__version__}"\n'
    (app / "pyproject.toml").write_text(f"{project}\n{app_block()}", encoding="utf-8")
    return app


def uv_block(requirements: Sequence[str]) -> str:
    """Return the `[tool.uv]` table that makes `uv sync` install nothing.

    Flower runs `uv sync` on the app before each run. Without this it would fetch everything again,
    in other builds, next to the environment that the user made; offline it would fail.

    Args:
        requirements: see `declared_requirements`.
    """
    lines = [f"  \"{name} ; python_version < '0'\"," for name in sorted(map(_name, requirements))]
    unique = dict.fromkeys(lines)
    return "\n".join(["[tool.uv]", "override-dependencies = [", *unique, "]", ""])


def declared_requirements(pyproject: Mapping[str, Any]) -> list[str]:
    """Return what a parsed pyproject.toml declares: dependencies, all extras, all groups."""
    project = pyproject.get("project", {})
    extras = project.get("optional-dependencies", {})
    groups = pyproject.get("dependency-groups", {})
    lists = [project.get("dependencies", []), *extras.values(), *groups.values()]
    return [entry for entries in lists for entry in entries if isinstance(entry, str)]


def _name(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[._-]+", "-", name.group()).lower()


def with_blocks(pyproject: str) -> str:
    """Return the text of a pyproject.toml with all after `MARKER` made anew.

    Raises:
        ConfigError: the marker is missing.
    """
    head, marker, _ = pyproject.partition(MARKER)
    if not marker:
        raise ConfigError(f"pyproject.toml has no line {MARKER!r}; put it before [tool.uv].")
    return f"{head}{marker}\n{uv_block(declared_requirements(tomllib.loads(head)))}\n{app_block()}"


if __name__ == "__main__":
    path = Path("pyproject.toml")
    path.write_text(with_blocks(path.read_text(encoding="utf-8")), encoding="utf-8")
