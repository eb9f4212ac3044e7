"""Networks with random weights and runs of a moment, to export."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_federations import TINY

from fedssl.config import Scalar
from fedssl.loopback import simulate
from fedssl.methods import METHODS, load_config
from fedssl.predict import Trained, load_trained
from fedssl.progress import ConsoleProgress
from fedssl.types import Task


def untrained(task: Task, method: str = "fedavg", **keys: Scalar) -> Trained:
    """Return a network of a method as a finished run would have it, without training it."""
    run = load_config({**TINY, "method": method, **keys})
    chosen = METHODS[method]
    seen = chosen.task(task)
    torch.manual_seed(0)
    model = chosen.build_model(run, seen).eval()
    return Trained(model, run, chosen, task, seen, torch.device("cpu"))


def trained_run(folder: Path, federation: Path, keys: dict[str, Scalar]) -> Path:
    """Train a tiny network for a moment and return its run folder."""
    run = simulated(folder, federation, keys)
    _balance(run)
    return run


def simulated(folder: Path, federation: Path, keys: dict[str, Scalar]) -> Path:
    """Run a tiny federation and return its run folder as it is."""
    config = {**TINY, "federation": str(federation), "cache-dir": str(folder / "cache"), **keys}
    simulate(
        load_config({"tracking": "", **config}),
        folder / "run",
        progress=ConsoleProgress(Console(quiet=True)),
    )
    return folder / "run"


def _balance(run: Path) -> None:
    """Move the last biases so that all classes occur, however short the training was."""
    trained = load_trained(run, device="cpu")
    sides = [4 * trained.model.stride] * trained.seen.spatial_dims
    with torch.no_grad():
        logits = trained.model(torch.randn(2, trained.seen.channels, *sides)).logits
        middle = logits.transpose(0, 1).flatten(1).median(dim=1).values
    weights = load_file(run / "model.safetensors")
    weights["head.bias"] -= middle
    save_file(weights, run / "model.safetensors")
