"""Runs of a moment and pictures of noise, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name
from rich.console import Console

from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.progress import ConsoleProgress

TASK = {
    "name": "eyes",
    "classes": ["background", "disc", "cup"],
    "mode": "2d",
    "output": "nested",
    "channels": 3,
}
FEDERATION = """
[task]
name = "eyes"
classes = ["background", "disc", "cup"]
output = "nested"
channels = 3
[[site]]
name = "north"
role = "labeled"
path = "north"
"""


def write_site(folder: Path, cases: int) -> None:
    """Write pictures with masks of a disc (1) and its middle (2)."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed in range(cases):
        write_picture(folder / f"images/{seed}.png", seed % 7)
        away = distance(seed % 7)
        mask = (away < 9).astype(np.uint8) + (away < 5)
        sitk.WriteImage(
            sitk.GetImageFromArray(mask.astype(np.uint8)), str(folder / f"labels/{seed}.png")
        )


def train(folder: Path, federation: str, **keys: object) -> Path:
    """Train for one round, and return the run folder."""
    if federation == FEDERATION:
        write_site(folder / "north", 10)
    (folder / "federation.toml").write_text(federation)
    flat = {
        "federation": str(folder / "federation.toml"),
        "cache-dir": str(folder / "cache"),
        "method": "fedavg",
        "rounds": 1,
        "local-steps": 40,
        "lr": 0.01,
        "batch-size": 2,
        "model.width": 4,
        "model.depth": 2,
        "device": "cpu",
        "evaluate.surface": False,
        "evaluate.overlays": 0,
        **keys,
    }
    run = load_config(flat)  # type: ignore[arg-type]  # flat keys of several types
    simulate(run, folder / "run", progress=ConsoleProgress(Console(quiet=True)))
    return folder / "run"


def write_picture(path: Path, seed: int, size: tuple[int, int] = (40, 52)) -> None:
    """Write a colour picture [H, W, 3] of noise around a bright disc."""
    rng = np.random.default_rng(seed)
    away = distance(seed, size)
    array = rng.integers(0, 60, (*size, 3)) + (90 * (away < 9) + 90 * (away < 5))[..., None]
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8), isVector=True), str(path))


def distance(seed: int, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    """Return each pixel's distance from the middle of the disc."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray(np.hypot(rows - size[0] / 2, columns - size[1] / 2 - seed))
