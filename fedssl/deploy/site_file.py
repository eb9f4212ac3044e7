"""A site's file: `[task]` and `[[site]]` for the library, `[node]` for how the site connects."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedssl.deploy.private_files import write_new
from fedssl.errors import ConfigError, FedsslError, did_you_mean
from fedssl.federation import load_site_file

__all__ = ["NodeSpec", "SiteDraft", "load_node", "site_file_text", "write_site_file"]

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_PATH_COMMENT: Final = "  # holds images/ and, where there are masks, labels/"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class NodeSpec(BaseModel):
    """The `[node]` table of a site file. Relative paths start at the file's folder.

    Args:
        coordinator: `host:port` of the coordinator's proxy.
        root_certificates: the authority that signed the coordinator's certificate; empty: none,
            and the connection is not encrypted (for trials on one machine).
        key: this node's private key in OpenSSH's format; empty: none, where the coordinator asks
            for none.
        state_dir: where everything that has to survive a restart is kept.
        accept_code: `installed`: run only bundles whose code is this installation's; a list of
            sha256 digests of bundles; or `any`.
        port: local port between the node's own processes; never reachable from outside.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    coordinator: str
    root_certificates: str = ""
    key: str = ""
    state_dir: str = "state"
    accept_code: Literal["installed", "any"] | tuple[str, ...] = "installed"
    port: int = Field(9094, ge=1, le=65535)

    @field_validator("coordinator")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        match = _ADDRESS.fullmatch(value)
        if not match or not 0 < int(match["port"]) < 65536:
            raise ValueError("expected host:port, e.g. 'fl.example.org:443'")
        return value

    @field_validator("accept_code", mode="before")
    @classmethod
    def _digests(cls, value: object) -> object:
        if value in ("installed", "any"):
            return value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("expected 'installed', 'any', or a list of sha256 digests")
        for digest in value:
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise ValueError(f"{digest!r} is no sha256 digest (64 lower-case hex digits)")
        return tuple(value)

    @property
    def host(self) -> str:
        """Host name or address of the coordinator, without brackets."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def coordinator_port(self) -> int:
        """Port of the coordinator."""
        return int(self.coordinator.rpartition(":")[2])


def load_node(path: Path) -> NodeSpec:
    """Return the `[node]` table of a site file, with absolute paths.

    Raises:
        ConfigError: the file or the table is missing or wrong; every problem is named.
    """
    spec = _parse(path)
    base = path.resolve().parent
    located: dict[str, str] = {"state_dir": str(base / spec.state_dir)}
    for name in ("root_certificates", "key"):
        if value := getattr(spec, name):
            located[name] = str(base / value)
    return spec.model_copy(update=located)


def _parse(path: Path) -> NodeSpec:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The site file {path} cannot be read: {error.strerror or error}. "
            "'fedssl-client init' writes one."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    if "node" not in tables:
        raise ConfigError(
            f'{path} has no [node] table. It needs at least: [node] coordinator = "host:port".'
        )
    try:
        return NodeSpec.model_validate(tables["node"])
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _explain(error: ValidationError, path: Path) -> str:
    known = [name.replace("_", "-") for name in NodeSpec.model_fields]
    lines = []
    for item in error.errors():
        key = str(item["loc"][0]) if item["loc"] else "node"
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key {key!r} in [node].{did_you_mean(key, known)}")
        else:
            reason = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: key {key!r} in [node]: {reason}; got {item['input']!r}.")
    return "\n".join(dict.fromkeys(lines))


@dataclass(frozen=True, slots=True)
class SiteDraft:
    """What a new site file says; it is checked when it is written.

    Args:
        name: site name.
        role: labeled, unlabeled or mixed.
        task: name, classes, mode, output and channels.
        coordinator: `host:port`.
        path: folder of the images; in a container `/data`.
        layout: how the folder is laid out.
        spacing: `header`, `unknown`, or mm per axis.
        labeled: mixed sites: how many subjects have masks, or a file that lists them.
        options: what the layout needs besides.
        root_certificates: see `NodeSpec`, as the two after it.
        key: this node's private key.
        state_dir: what has to survive a restart.
    """

    name: str
    role: str
    task: Mapping[str, Any]
    coordinator: str
    path: str = ""
    layout: str = "folders"
    spacing: str | Sequence[float] = "header"
    labeled: int | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    root_certificates: str = "keys/ca.crt"
    key: str = "keys/node.key"
    state_dir: str = "state"


def write_site_file(path: Path, draft: SiteDraft) -> Path:
    """Write a new, commented site file and read it back.

    Raises:
        DataError: the file exists already.
        ConfigError, FederationError: a value is wrong; nothing is left behind.
    """
    write_new(path, site_file_text(draft))
    try:
        load_site_file(path)
        load_node(path)
    except FedsslError:
        path.unlink()
        raise
    return path


def site_file_text(draft: SiteDraft) -> str:
    """Return a commented site file; `load_site_file` and `load_node` read it back."""
    task = draft.task
    lines = [
        "# What is segmented. Every site of the federation has the same [task].",
        "[task]",
        f"name = {_toml(task['name'])}",
        f"classes = {_toml(list(task['classes']))}  # background first; a mask holds 0, 1, ...",
        f"mode = {_toml(task['mode'])}  # 2d pictures | slices | 2.5d | 3d volumes",
        f"output = {_toml(task['output'])}  # exclusive | nested (disc and cup)",
        f"channels = {task['channels']}  # 1 grey, 3 colour",
        "",
        "# Your images. They stay where they are; nothing here is sent anywhere but name and role.",
        "[[site]]",
        f"name = {_toml(draft.name)}",
        f"role = {_toml(draft.role)}  # labeled | unlabeled | mixed (some masks)",
        f"path = {_toml(draft.path)}{_PATH_COMMENT if draft.layout == 'folders' else ''}",
        f"layout = {_toml(draft.layout)}",
        f"spacing = {_toml(draft.spacing)}  # header | unknown (pixels) | [x, y, z] in mm",
        _labeled_line(draft),
    ]
    if draft.options:
        lines += ["[site.options]", *(f"{k} = {_toml(v)}" for k, v in draft.options.items())]
    lines += [
        "",
        "# How this site reaches the coordinator: one outgoing TLS connection, nothing comes in.",
        "[node]",
        f"coordinator = {_toml(draft.coordinator)}",
        f"root-certificates = {_toml(draft.root_certificates)}  # whom the connection trusts",
        f"key = {_toml(draft.key)}  # proves that it is you; never give it away",
        f"state-dir = {_toml(draft.state_dir)}  # survives restarts; keep it on a local disk",
        "# Which code may run here: installed (this fedssl, nothing else), a list of sha256 of",
        "# bundles, or any.",
        'accept-code = "installed"',
        "port = 9094  # between this site's own processes",
    ]
    return "\n".join(lines) + "\n"


def _labeled_line(draft: SiteDraft) -> str:
    if draft.labeled is not None:
        return f"labeled = {_toml(draft.labeled)}"
    return "# labeled = 8  # mixed: how many subjects have masks, or a file that lists them"


def _toml(value: object) -> str:
    """Return a scalar or a list as TOML; their JSON forms are TOML, too."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
