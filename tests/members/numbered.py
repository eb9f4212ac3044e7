"""Runs of sites that return numbers, so that an average tells who took part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comings import Comings, Number
from safetensors.torch import load_file
from tiny_federations import Silent

from fedssl.config import RunConfig, Scalar
from fedssl.coordinator import run_federation
from fedssl.methods import load_config
from fedssl.types import Role

VALUES = {"east": 2.0, "north": 4.0, "west": 8.0}

EVERYONE = frozenset(VALUES)


def config(**keys: Scalar) -> RunConfig:
    """Return a run of `mutual` from its first round on: the average of all sites' weights."""
    flat: dict[str, Scalar] = {"method": "mutual", "rounds": 3, "mutual.warmup-rounds": 0}
    flat |= {"mutual.unlabeled-share": 1.0, "round-timeout": 0.5}
    flat |= {"model.width": 2, "model.depth": 1, "evaluate.every": 0}
    flat |= {key.replace("_", "-"): value for key, value in keys.items()}
    return load_config(flat)


def numbers(run: RunConfig, **changed: Any) -> dict[str, Number]:
    """Return sites north and east, which are labeled, and west, which is not."""
    sites = {}
    for name, value in VALUES.items():
        role = Role.UNLABELED if name == "west" else Role.LABELED
        sites[name] = replace(Number(name, role, run, value), **changed.get(name, {}))
    return sites


def through(exchange: Comings, run: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """Run to the end and return the rounds."""
    out = run_federation(run, exchange, folder, progress=Silent())
    return out.records()


def weight(folder: Path) -> float:
    """Return the number that all final weights are."""
    values = torch.cat([v.flatten() for v in load_file(folder / "model.safetensors").values()])
    assert values.unique().numel() == 1
    return float(values[0])


def took_part(rounds: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [sorted(r["sites"]) for r in rounds]


def replies(exchange: Comings) -> list[list[int]]:
    """Return the rounds that each site was asked to train in."""
    sites = exchange.sites.values()
    return [[d.round for d in s.seen if d.stage == "train"] for s in sites]  # type: ignore[attr-defined]  # sites of this file


def digest(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["weights_sha256"])
