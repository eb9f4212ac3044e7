"""The run folder: what a finished run leaves behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fedssl.config import RunConfig, Scalar, flatten
from fedssl.errors import CheckpointError, ConfigError
from fedssl.functional.averaging import weights_sha256
from fedssl.memory import write_atomically
from fedssl.types import Arrays, SiteInfo, Task

__all__ = [
    "SCHEMA",
    "RoundRecord",
    "RunFolder",
    "SiteResult",
    "absences",
    "config_toml",
    "lost_classes",
]

SCHEMA = 1

_LOST = 0.05
"""A class with less Dice at every site is not found; what is learned at all has far more."""


@dataclass(slots=True)
class SiteResult:
    """Results of the global model at one site; `metrics` holds means such as `dice/<class>`.

    A site that did not answer has none, like one without masks.
    """

    role: str
    split: str
    metrics: dict[str, float]
    cases: int
    answered: bool = True

    def mean_dice(self) -> float | None:
        """Return the mean over foreground classes, or None without masks."""
        values = [v for k, v in self.metrics.items() if k.startswith("dice/")]
        return sum(values) / len(values) if values else None


@dataclass(slots=True)
class RoundRecord:
    """One line of `rounds.jsonl`."""

    round: int
    stages: list[str] = field(default_factory=list)
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    sites: dict[str, dict[str, float]] = field(default_factory=dict)
    rule: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, SiteResult] = field(default_factory=dict)


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder; made when the run begins.
        run: the run's configuration.
    """

    def __init__(self, path: Path, run: RunConfig) -> None:
        self.path, self.run = path, run
        self.rounds = path / "rounds.jsonl"
        self.results = path / "results.json"
        self.model = path / "model.safetensors"
        self.checkpoint = path / "checkpoint" / "latest.safetensors"

    def begin(self, round_: int, *, resumed: bool) -> None:
        """Make the folder; on resume, drop the lines of rounds that are run again.

        A finished run that goes on for more rounds is unfinished again: its results go.
        """
        if not resumed and (self.rounds.exists() or self.results.exists()):
            raise CheckpointError(
                f"The run folder {self.path} holds a run already. Give another 'out', or --resume "
                "to go on with it."
            )
        on_disk = resumed and self.rounds.exists()
        lines = self.rounds.read_text(encoding="utf-8").splitlines() if on_disk else []
        # One line per round, in order; what follows was not checkpointed or not written in full.
        kept = "".join(line + "\n" for line in lines[:round_])
        stale = ["results.json", "report.html", "model.safetensors"]
        try:
            for name in stale if round_ < self.run.rounds else []:
                (self.path / name).unlink(missing_ok=True)
            write_atomically(self.path / "config.toml", config_toml(flatten(self.run)).encode())
            write_atomically(self.rounds, kept.encode())
        except OSError as error:
            raise ConfigError(
                f"The run folder {self.path} cannot be written: {error.strerror or error}. Give "
                "another 'out'."
            ) from None

    def append(self, record: RoundRecord) -> None:
        """Add one line to `rounds.jsonl`; it is on disk when this returns."""
        with self.rounds.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[dict[str, Any]]:
        """Return the finished rounds."""
        text = self.rounds.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def write_results(
        self,
        weights: Arrays,
        sites: Mapping[str, SiteResult],
        *,
        engine: str,
        task: Task,
        roster: Mapping[str, SiteInfo],
        versions: Mapping[str, str],
        units: Mapping[str, str],
    ) -> None:
        """Write `model.safetensors` and `results.json`."""
        write_atomically(self.model, save({k: v.contiguous() for k, v in weights.items()}))
        records = self.records()
        means = [m for s in sites.values() if (m := s.mean_dice()) is not None]
        results = {
            "schema": SCHEMA,
            "method": self.run.method,
            "seed": self.run.seed,
            "rounds": self.run.rounds,
            "engine": engine,
            "weights_sha256": weights_sha256(weights),
            "task": asdict(task),
            "sites": {
                name: {
                    **_site_entry(result, task),
                    "distance_unit": units[name],
                    "num_examples": roster[name].num_examples,
                    "num_labeled": roster[name].num_labeled,
                    "rounds": sum(name in record["sites"] for record in records),
                }
                for name, result in sites.items()
            },
            "mean_dice": sum(means) / len(means) if means else None,
            "wall_seconds": sum(r["seconds"] for r in records),
            "bytes_up": sum(r["bytes_up"] for r in records),
            "bytes_down": sum(r["bytes_down"] for r in records),
            "versions": dict(versions),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_atomically(self.results, (json.dumps(results, indent=2) + "\n").encode())


def absences(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name every site that took part in fewer rounds than others of its role.

    Args:
        sites: that table of `results.json`; older runs do not tell rounds and name nobody.
    """
    lines = []
    for name, site in sites.items():
        took_part = site.get("rounds", 0)
        most = max(s.get("rounds", 0) for s in sites.values() if s["role"] == site["role"])
        if took_part < most:
            lines.append(
                f"Site {name} took part in {took_part} rounds, other {site['role']} sites in up "
                f"to {most}; the log says why."
            )
    return lines


def lost_classes(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name every class that is found at no site, though there are others that are.

    Args:
        sites: that table of `results.json`.
    """
    best: dict[str, float] = {}
    for site in sites.values():
        for name, dice in site["dice"].items():
            if dice is not None:
                best[name] = max(dice, best.get(name, 0.0))
    lost = [name for name, dice in best.items() if dice < _LOST]
    if len(lost) == len(best):  # nothing was learned, which is another problem
        return []
    return [
        f"Class {name} is found at no site (Dice at most {best[name]:.2f}). If it was learned too "
        "late, give more rounds, and a method that has one a longer warm-up. If the network lost "
        "it, set model.foreground-prior to the share of foreground in the masks, or a larger "
        "model.width."
        for name in lost
    ]


def _site_entry(result: SiteResult, task: Task) -> dict[str, Any]:
    def per_class(metric: str) -> dict[str, float | None]:
        return {c: result.metrics.get(f"{metric}/{c}") for c in task.foreground}

    pseudo = [v for k, v in result.metrics.items() if k.startswith("pseudo_dice/")]
    return {
        "role": result.role,
        "split": result.split,
        "cases": result.cases,
        "answered": result.answered,
        "dice": per_class("dice"),
        "hd95": per_class("hd95"),
        "assd": per_class("assd"),
        "pseudo_dice": sum(pseudo) / len(pseudo) if pseudo else None,
    }


def config_toml(flat: Mapping[str, Scalar]) -> str:
    """Return flat keys as TOML, top-level keys first, then one table per section."""
    top = {k: v for k, v in flat.items() if "." not in k}
    lines = [f"{k} = {_toml(v)}" for k, v in top.items()]
    sections: dict[str, list[str]] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            sections.setdefault(section, []).append(f"{name} = {_toml(value)}")
    for section, entries in sections.items():
        lines += ["", f"[{section}]", *entries]
    return "\n".join(lines) + "\n"


def _toml(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)
