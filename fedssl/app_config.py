"""The Flower side of pyproject.toml, made from the typed configuration.

`python -m fedssl.app_config` prints the block; a test asserts that pyproject.toml holds it.
Flower accepts an override on the command line only for a key that stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fedssl import __version__
from fedssl.config import RunConfig, Scalar, flatten
from fedssl.fingerprint import package_folders
from fedssl.methods import METHODS
from fedssl.results import config_toml

__all__ = ["app_block", "default_config", "stage_app", "uv_overrides"]

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


def uv_overrides(requirements: Sequence[str]) -> list[str]:
    """Return overrides that make `uv sync` install nothing.

    Flower runs `uv sync` on the app before each run. Without these it would fetch everything
    again, in other builds, next to the environment that the user made (and fail offline).

    Args:
        requirements: as in `dependencies`, all extras and all dependency groups, and
            `build-system.requires`.
    """
    names = {_name(requirement) for requirement in requirements}
    return [f"{name} ; python_version < '0'" for name in sorted(names)]


def _name(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)
    return requirement[:end].lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    print(app_block(), end="")  # noqa: T201
