"""Federation and site files: which sites there are, where their images lie, their roles."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedssl.config import RunConfig
from fedssl.errors import ConfigError, FederationError, did_you_mean
from fedssl.types import Output, Role, Task

__all__ = ["Federation", "SiteSpec", "TaskSpec", "in_mode", "load_federation", "load_site_file"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(_Table):
    """The `[task]` table."""

    name: str = "segmentation"
    classes: tuple[str, ...]
    mode: Literal["2d", "slices", "2.5d", "3d"] = "2d"
    output: Output = Output.EXCLUSIVE
    channels: int = Field(1, ge=1, le=64)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, classes: object) -> object:
        if not isinstance(classes, list | tuple) or len(classes) < 2:
            raise ValueError('expected names, background first, e.g. ["background", "lesion"]')
        if len({*map(str, classes)}) != len(classes):
            raise ValueError("class names must differ")
        return classes

    def task(self) -> Task:
        """Return the noun that the library works with; 2.5D sees three slices as channels."""
        channels = 3 * self.channels if self.mode == "2.5d" else self.channels
        return Task(self.name, self.classes, self.mode, self.output, channels)


class SiteSpec(_Table):
    """One `[[site]]` table.

    Args:
        name: letters, digits, `-` and `_`.
        path: folder of the site; empty for synthetic sites.
        role: labeled, unlabeled or mixed.
        layout: `folders`, a named public layout, or `synthetic`.
        labeled: mixed sites: how many subjects have masks, or a list file with their names.
        shard: (i, n): the i-th of n shards of the folder's subjects.
        spacing: `header`, `unknown` (distances in pixels), or mm per axis in the image's order.
        options: what a layout needs besides, e.g. `domain = "Domain1"`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    path: str = ""
    role: Role
    layout: str = "folders"
    labeled: int | str | None = None
    shard: tuple[int, int] | None = None
    spacing: Literal["header", "unknown"] | tuple[float, ...] = "header"
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("shard")
    @classmethod
    def _shard_in_range(cls, shard: tuple[int, int] | None) -> tuple[int, int] | None:
        if shard is not None and not 0 <= shard[0] < shard[1]:
            raise ValueError("the i-th of n shards, [i, n], needs 0 <= i < n")
        return shard

    @field_validator("labeled", mode="before")
    @classmethod
    def _at_least_one(cls, labeled: object) -> object:
        if isinstance(labeled, bool):
            raise ValueError("how many subjects have masks, or a list file with their names")
        if isinstance(labeled, int) and labeled < 1:
            raise ValueError("a mixed site needs at least one labeled subject")
        return labeled


@dataclass(frozen=True, slots=True)
class Federation:
    """A task and its sites, in the order of the file."""

    task: Task
    sites: tuple[SiteSpec, ...]
    source: str

    def site(self, name: str) -> SiteSpec:
        """Return one site by name."""
        for spec in self.sites:
            if spec.name == name:
                return spec
        names = [s.name for s in self.sites]
        raise FederationError(
            f"No site {name!r} in {self.source}.{did_you_mean(name, names)} Sites: {names}."
        )


def load_federation(run: RunConfig) -> Federation:
    """Return the federation that `run` names, with `sites` and `labeled-sites` applied."""
    from fedssl.data.synthetic import SYNTHETIC, synthetic_tables

    if run.federation in SYNTHETIC:
        tables, base = synthetic_tables(run.federation), Path()
    else:
        path = Path(run.federation)
        tables = _read_toml(path)
        base = data_root(run, path.resolve().parent)
    task, sites = _parse_tables(tables, run.federation)
    sites = tuple(_located(spec, base) for spec in sites)
    federation = Federation(in_mode(task, run.mode), sites, run.federation)
    return _with_roles(_with_subset(federation, run), run)


def load_site_file(path: Path) -> tuple[Task, SiteSpec]:
    """Return the task and the one site of a `site.toml`.

    Raises:
        FederationError: the file is missing or wrong.
    """
    if not path.is_file():
        raise FederationError(
            f"The site file {str(path)!r} does not exist. Give its path; 'fedssl-client init' "
            "writes one."
        )
    tables = _read_toml(path)
    tables.pop("node", None)  # how the site connects; see fedssl.deploy.site_file
    task, sites = _parse_tables(tables, str(path))
    if len(sites) != 1:
        raise FederationError(
            f"{path} describes {len(sites)} sites; a site file holds exactly one."
        )
    return task, _located(sites[0], path.resolve().parent)


def in_mode(task: Task, mode: str) -> Task:
    """Return a task in the mode that a run asks for; an empty one changes nothing.

    Raises:
        ConfigError: pictures would become volumes, or the other way round.
    """
    if mode in ("", task.mode):
        return task
    if "2d" in (mode, task.mode):
        raise ConfigError(
            f"Key 'mode' = {mode!r} does not fit the task {task.name!r}, which has mode "
            f"{task.mode!r}: pictures stay 2d, volumes can be slices, 2.5d or 3d."
        )
    base = task.channels // 3 if task.mode == "2.5d" else task.channels
    return replace(task, mode=mode, channels=3 * base if mode == "2.5d" else base)


def data_root(run: RunConfig, default: Path) -> Path:
    """Return where relative site paths start: `data-root`, else FEDSSL_DATA, else `default`."""
    chosen = run.data_root or os.environ.get("FEDSSL_DATA", "")
    return Path(chosen) if chosen else default


def _read_toml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise FederationError(f"{str(path)!r} is a folder; give the federation.toml in it.")
    if not path.is_file():
        from fedssl.data.synthetic import SYNTHETIC

        raise FederationError(
            f"Federation file {str(path)!r} does not exist.{did_you_mean(path.name, SYNTHETIC)} "
            f"Give a path to a federation.toml, or one of {', '.join(SYNTHETIC)}."
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FederationError(f"{path} is not valid TOML: {error}.") from None
    if not tables.get("site") or "task" not in tables:
        missing = [t for t in ("[task]", "[[site]]") if not tables.get(t.strip("[]"))]
        others = ", ".join(sorted(tables.keys() - {"site", "task"}))
        raise FederationError(
            f"{path} has no {' and no '.join(missing)} table; it needs both."
            + (f" It has {others}." if others else "")
        )
    return tables


def _parse_tables(tables: dict[str, Any], source: str) -> tuple[Task, tuple[SiteSpec, ...]]:
    unknown = sorted(set(tables) - {"task", "site"})
    if unknown:
        hint = did_you_mean(unknown[0], ["task", "site"])
        raise FederationError(f"{source}: unknown table {unknown[0]!r}.{hint}")
    try:
        task = TaskSpec.model_validate(tables["task"]).task()
    except ValidationError as error:
        raise FederationError(_explain(error, f"{source}, [task]", TaskSpec)) from None
    raw = tables["site"]
    if not isinstance(raw, list):
        raise FederationError(f"{source}: write [[site]] with two brackets, once per site.")
    sites = tuple(_parse_site(table, number, source) for number, table in enumerate(raw, 1))
    names = [s.name for s in sites]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise FederationError(f"{source}: site name {twice[0]!r} is used twice; names must differ.")
    return task, sites


def _parse_site(table: Any, number: int, source: str) -> SiteSpec:
    name = table.get("name", "") if isinstance(table, dict) else ""
    where = f"{source}, [[site]] number {number}" + (f" ({name})" if name else "")
    try:
        spec = SiteSpec.model_validate(table)
    except ValidationError as error:
        raise FederationError(_explain(error, where, SiteSpec)) from None
    # Not in the table's own checks: `labeled-sites` changes roles later.
    if spec.labeled is not None and spec.role != Role.MIXED:
        raise FederationError(
            f"{where}: labeled = {spec.labeled!r} chooses among the masks of a mixed site, and "
            f'this one is {spec.role.value}. Set role = "mixed", or remove the key.'
        )
    return spec


def _explain(error: ValidationError, where: str, table: type[_Table]) -> str:
    """Return one sentence per wrong key; of a key with several types the first has to do."""
    lines: dict[str, str] = {}
    for item in error.errors():
        key = str(item["loc"][0]) if item["loc"] else ""
        if item["type"] == "extra_forbidden":
            line = f"unknown key {key!r}.{did_you_mean(key, table.model_fields)}"
        elif item["type"] == "missing":
            line = f"key {key!r} is missing."
        else:
            reason = item["msg"].removeprefix("Value error, ")
            inner = str(item["loc"][1]) if key == "options" and len(item["loc"]) > 1 else ""
            place = f"{key}.{inner}" if inner else key
            line = (f"key {place!r}: " if key else "") + f"{reason}; got {item['input']!r}."
            if item["type"] in ("enum", "literal_error"):
                line += did_you_mean(str(item["input"]), re.findall(r"'([^']+)'", reason))
        lines.setdefault(key, f"{where}: {line}")
    return "\n".join(lines.values())


def _located(spec: SiteSpec, base: Path) -> SiteSpec:
    if not spec.path or Path(spec.path).is_absolute():
        return spec
    return spec.model_copy(update={"path": str((base / spec.path).resolve())})


def _names(text: str) -> list[str]:
    return [n.strip() for n in text.split(",") if n.strip()]


def _check_known(wanted: Sequence[str], federation: Federation, key: str) -> None:
    names = [s.name for s in federation.sites]
    for name in wanted:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(
                f"Key {key!r} names {name!r}, which is no site of {federation.source}.{hint} "
                f"Sites: {', '.join(names)}."
            )


def _with_subset(federation: Federation, run: RunConfig) -> Federation:
    wanted = _names(run.sites)
    _check_known(wanted, federation, "sites")
    kept = tuple(s for s in federation.sites if not wanted or s.name in wanted)
    return Federation(federation.task, kept, federation.source)


def _with_roles(federation: Federation, run: RunConfig) -> Federation:
    wanted = _names(run.labeled_sites)
    if not wanted:
        return federation
    if wanted == ["all"]:
        wanted = [s.name for s in federation.sites]
    _check_known(wanted, federation, "labeled-sites")
    sites = tuple(
        s.model_copy(update={"role": Role.LABELED if s.name in wanted else Role.UNLABELED})
        for s in federation.sites
    )
    return Federation(federation.task, sites, federation.source)
