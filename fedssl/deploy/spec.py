"""What `fedssl deploy` is told: a coordinator, a task, and the hospitals."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedssl.deploy.authority import require_host
from fedssl.deploy.nodes import require_site_name
from fedssl.errors import ConfigError, did_you_mean
from fedssl.federation import SiteSpec, TaskSpec
from fedssl.types import Role

__all__ = ["CoordinatorSpec", "DeploySpec", "load_deploy_spec", "spec_from_options"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CoordinatorSpec(_Table):
    """The `[coordinator]` table.

    Args:
        host: public name or address of the coordinator's machine.
        port: port that sites connect to.
        image: container image, the same on all machines.
    """

    host: str
    port: int = Field(443, ge=1, le=65535)
    image: str = "fedssl:0.1.0"

    @field_validator("host")
    @classmethod
    def _name_or_address(cls, value: str) -> str:
        try:
            return require_host(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def address(self) -> str:
        """Return `host:port`; an IPv6 address is put into brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class DeploySpec(_Table):
    """A deployment.

    Args:
        coordinator: where the sites connect to.
        task: what is segmented.
        sites: one entry per hospital; `path` is the folder on the hospital's machine.
    """

    coordinator: CoordinatorSpec
    task: TaskSpec
    sites: tuple[SiteSpec, ...] = Field(min_length=1)


def load_deploy_spec(path: Path) -> DeploySpec:
    """Read a deployment file: a federation file with a `[coordinator]` table.

    Raises:
        ConfigError: the file cannot be read, or a key is missing, unknown or wrong.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    known = ["coordinator", "task", "site"]
    for table in tables:
        if table not in known:
            raise ConfigError(f"{path}: unknown table {table!r}.{did_you_mean(table, known)}")
    missing = [table for table in known if table not in tables]
    if missing:
        raise ConfigError(
            f"{path} has no {' and no '.join(missing)} table; a deployment needs [coordinator], "
            "[task] and one [[site]] per hospital."
        )
    fields = {"coordinator": tables["coordinator"], "task": tables["task"], "sites": tables["site"]}
    return _checked(fields, str(path))


def spec_from_options(
    host: str, port: int, classes: str, sites: Sequence[str], *, mode: str, channels: int
) -> DeploySpec:
    """Return the deployment that command-line options describe.

    Args:
        host: public name of the coordinator.
        port: its port.
        classes: names separated by commas, background first.
        sites: `name=role` each.
        mode: the task's mode.
        channels: the task's image channels.

    Raises:
        ConfigError: a value is wrong.
    """
    entries: list[dict[str, Any]] = []
    for entry in sites:
        name, sep, role = entry.partition("=")
        if not sep or role not in set(Role):
            raise ConfigError(
                f"--site takes NAME=ROLE with a role of {', '.join(Role)}: {entry!r}."
            )
        entries.append({"name": name, "role": role})
    if not entries:
        raise ConfigError("No hospital is named. Give --site NAME=ROLE once for each.")
    names = [c.strip() for c in classes.split(",") if c.strip()]
    fields = {
        "coordinator": {"host": host, "port": port},
        "task": {"classes": names, "mode": mode, "channels": channels},
        "sites": entries,
    }
    return _checked(fields, "the options")


def _checked(fields: dict[str, Any], source: str) -> DeploySpec:
    try:
        spec = DeploySpec.model_validate(fields)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            reason = item["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: key {key!r}: {reason}; got {item['input']!r}.")
        raise ConfigError("\n".join(lines)) from None
    names = [require_site_name(site.name) for site in spec.sites]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{source}: site {twice[0]!r} stands twice; names must differ.")
    return spec
