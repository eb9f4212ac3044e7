"""A small federation to learn on, and the lower bound that every method is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tiny_federations import run_watched

from fedssl.config import Scalar
from fedssl.methods import METHODS, load_config

Learn = Callable[..., float]

SITES = {
    "north": 'role = "labeled"\noptions = { kind = "fundus", look = 0, images = 24, size = 32 }',
    "south": 'role = "mixed"\nlabeled = 3\n'
    'options = { kind = "fundus", look = 1, images = 40, size = 32 }',
    "west": 'role = "unlabeled"\noptions = { kind = "fundus", look = 4, images = 40, size = 32 }',
    "far": 'role = "unlabeled"\noptions = { kind = "fundus", look = 3, images = 40, size = 32 }',
}
"""Masks at one camera, three at another, none at two that look different."""
KEYS: dict[str, Scalar] = {
    "rounds": 20,
    "local-steps": 12,
    "batch-size": 8,
    "lr": 4e-3,
    "model.width": 8,
    "model.depth": 2,
    "device": "cpu",
    "evaluate.every": 0,
    "evaluate.surface": False,
    "evaluate.overlays": 0,
    "tracking": "",
}
"""240 steps at a site with masks."""
SHARED: dict[str, Scalar] = {"warmup-rounds": 8, "unlabeled-weight": 0.25}
"""Of every method that has the key; far more training images lack a mask than have one."""
OWN: dict[str, dict[str, Scalar]] = {
    # Dice alone, as published, learns next to nothing in so few steps.
    "mutual": {"ce-weight": 1.0, "ramp-steps": 200},
    # Features of a camera that nobody has masks of mislead: without the model's consent the method
    # ended 0.10 below the lower bound here (seed 0), with it 0.05 above.
    "reference": {"grid": 32, "agree-with-model": True},
    # With the published thresholds 98 % of pixels pass: -0.054 over three seeds.
    "cbafed": {"view": "strong", "floor": 0.8, "tail": 0.0},
    "quality": {
        "gate-correlation": 0.5,  # of a predictor that has seen 240 batches
        "predictor-rounds": 3,
        "predictor-steps": 80,
        "predictor-lr": 2e-3,
        "width": 16,
    },
}
TASK = """\
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
mode = "2d"
output = "nested"
channels = 3
"""


@pytest.fixture(scope="session")
def learn(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Learn:
    """Train a method; return the mean test Dice over the sites without masks. Runs are kept."""
    file = tmp_path_factory.mktemp("federation") / "federation.toml"
    tables = [
        f'[[site]]\nname = "{name}"\nlayout = "synthetic"\n{text}\n' for name, text in SITES.items()
    ]
    file.write_text(TASK + "".join(tables))
    found: dict[tuple[object, ...], float] = {}

    def run(method: str, seed: int, keys: Mapping[str, Scalar] | None = None) -> float:
        place = (method, seed, *sorted((keys or {}).items()))
        if place not in found:
            flat = {"federation": str(file), "cache-dir": str(prepared_cache), **KEYS}
            known = METHODS[method].config.model_fields
            shared = {k: v for k, v in SHARED.items() if k.replace("-", "_") in known}
            own = {f"{method}.{k}": v for k, v in {**shared, **OWN.get(method, {})}.items()}
            flat |= {"method": method, "seed": seed, **own, **(keys or {})}
            done = run_watched(load_config(flat), tmp_path_factory.mktemp(method) / "run")
            found[place] = mean_dice(done.results["sites"], "unlabeled")
        return found[place]

    return run


def mean_dice(sites: Mapping[str, Mapping[str, object]], role: str) -> float:
    scores = []
    for site in sites.values():
        if site["role"] == role:
            dice = site["dice"]
            assert isinstance(dice, dict)
            scores += list(dice.values())
    return sum(scores) / len(scores)
