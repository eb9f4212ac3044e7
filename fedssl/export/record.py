"""What a run folder tells of the run, for the metadata and the model card of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedssl.errors import CheckpointError, ConfigError
from fedssl.types import Role

__all__ = ["RunRecord", "SiteRecord", "run_record"]


class SiteRecord(BaseModel):
    """One site in `results.json`; scores are per foreground class, None without masks."""

    role: Role
    split: str
    cases: int
    dice: dict[str, float | None]
    hd95: dict[str, float | None]
    assd: dict[str, float | None]
    distance_unit: str
    num_examples: int
    num_labeled: int
    answered: bool = True
    """Whether it answered the final evaluation; older runs do not say."""
    trained: bool = False
    """Whether an upload of it was used in some round; stands in `rounds.jsonl`."""

    @property
    def scored(self) -> bool:
        """Whether there is a Dice of any class."""
        return any(value is not None for value in self.dice.values())

    @property
    def part(self) -> str:
        """What the site did in the run, in words."""
        return "trained" if self.trained else "evaluated only" if self.scored else "none"

    def mean_dice(self) -> float | None:
        """Return the mean over foreground classes, or None without masks."""
        values = [value for value in self.dice.values() if value is not None]
        return sum(values) / len(values) if values else None


class RunRecord(BaseModel):
    """`results.json`, and from `rounds.jsonl` which sites trained."""

    seed: int
    rounds: int
    engine: str
    weights_sha256: str
    versions: dict[str, str]
    finished: str
    mean_dice: float | None
    sites: dict[str, SiteRecord]

    def who(self, part: str) -> list[str]:
        """Return the sites of one part, in site order."""
        return [name for name, site in self.sites.items() if site.part == part]

    @property
    def silent(self) -> list[str]:
        """Sites that did not answer the final evaluation."""
        return [name for name, site in self.sites.items() if not site.answered]

    @property
    def scored(self) -> list[str]:
        """Sites that `mean_dice` is over."""
        return [name for name, site in self.sites.items() if site.scored]


def run_record(folder: Path) -> RunRecord:
    """Read a finished run.

    Raises:
        CheckpointError: a file cannot be read.
        ConfigError: `results.json` lacks a key, or a key holds something else than fedssl writes.
    """
    path = folder / "results.json"
    (results,) = _json(path, whole=True)
    trained = _trained(folder / "rounds.jsonl")
    try:
        record = RunRecord.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}, key {key!r}: {first['msg']}. --resume of the run evaluates and writes anew."
        ) from None
    for name, site in record.sites.items():
        site.trained = name in trained
    return record


def _trained(path: Path) -> set[str]:
    try:
        return {site for line in _json(path) for site in line["sites"]}
    except (KeyError, TypeError):
        raise CheckpointError(
            f"{path} does not tell which sites trained: a line has no table 'sites'. Take it from "
            "a copy of the run."
        ) from None


def _json(path: Path, *, whole: bool = False) -> list[Any]:
    """Return what a file holds, or what each of its lines holds."""
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(part) for part in ([text] if whole else text.splitlines())]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
