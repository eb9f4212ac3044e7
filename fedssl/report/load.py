"""A finished run folder, read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssl.errors import DataError
from fedssl.results import SCHEMA

__all__ = ["Run", "load_run"]

_NEEDED = ("method", "seed", "rounds", "engine", "weights_sha256", "task", "sites", "mean_dice")
"""Keys of `results.json` without which there is nothing to show."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left behind.

    Args:
        folder: the run folder.
        results: `results.json`.
        rounds: lines of `rounds.jsonl`.
        config: flat keys of `config.toml`.
        cases: per site, lines of its `cases.jsonl`; {} where they stayed at the sites.
        overlays: per site, lines of its `overlays/overlays.jsonl`.
    """

    folder: Path
    results: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    cases: Mapping[str, Sequence[Mapping[str, Any]]]
    overlays: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def sites(self) -> Mapping[str, Mapping[str, Any]]:
        """Results per site, in site order."""
        sites: Mapping[str, Mapping[str, Any]] = self.results["sites"]
        return sites

    @property
    def foreground(self) -> list[str]:
        """Names of the foreground classes."""
        return list(self.results["task"]["classes"][1:])

    def site_folder(self, site: str) -> Path:
        """Return a site's own folder; it exists only where the run was simulated."""
        return self.folder / "sites" / site


def load_run(folder: Path, *, cases: bool = True) -> Run:
    """Read a run folder.

    Args:
        folder: of a finished run.
        cases: whether to read what lies in the sites' own folders, too.

    Raises:
        DataError: the folder holds no finished run, a damaged one, or one of another schema.
    """
    results = _results(folder / "results.json")
    sites = list(results["sites"]) if cases else []
    own = {site: folder / "sites" / site for site in sites}
    return Run(
        folder=folder,
        results=results,
        rounds=_lines(folder / "rounds.jsonl"),
        config=_config(folder / "config.toml"),
        cases={site: found for site in sites if (found := _lines(own[site] / "cases.jsonl"))},
        overlays={
            site: found
            for site in sites
            if (found := _lines(own[site] / "overlays" / "overlays.jsonl"))
        },
    )


def _results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, so {path.parent} is no folder of a finished run. Give the "
            "'out' folder of a run that has ended; --resume finishes an interrupted one."
        )
    (results,) = _json(path, [path.read_text(encoding="utf-8")])
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"{path} has the schema {schema!r}; this version of fedssl reads "
            f"{SCHEMA}. Use the version that wrote it."
        )
    missing = [key for key in _NEEDED if key not in results]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}. --resume of the run evaluates and writes anew."
        )
    return results


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return _json(path, [line for line in path.read_text(encoding="utf-8").splitlines() if line])


def _json(path: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return [json.loads(text) for text in texts]
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: {error}. --resume of the run evaluates and writes anew."
        ) from None


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    flat: dict[str, Any] = {}
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither TOML nor text
        raise DataError(
            f"{path} is damaged: {error}. Take it from a copy of the run, or run it again."
        ) from None
    for key, value in tree.items():
        entries = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else None
        flat |= {key: value} if entries is None else entries
    return flat
