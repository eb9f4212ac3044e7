"""Sites whose every voxel tells where it is from, for the tests of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fedssl.config import AugmentConfig, ModelConfig, RunConfig
from fedssl.data.batches import Batches, SiteTrainingData
from fedssl.data.cache import PreparedSite
from fedssl.types import Task

STILL = AugmentConfig(
    flip=False, rotate=0, scale=0, translate=0, probability=0, cutout=0, photometric_labeled=False
)
CPU = torch.device("cpu")


def coded(case: int, shape: tuple[int, ...], channels: int = 1) -> np.ndarray:
    """Every voxel tells its case, its channel and its place."""
    place = np.arange(np.prod(shape)).reshape(shape)
    return np.stack([place + 10_000 * c + 100_000 * case for c in range(channels)]).astype(float)


def batches_over(
    prepared_site: Callable[..., PreparedSite],
    folder: Path,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray | None],
    mode: str = "2d",
    labeled: Sequence[int] = (),
    seed: int = 0,
    device: torch.device = CPU,
    **run: object,
) -> tuple[Batches, SiteTrainingData]:
    """Return batches over given images and labels, and the data behind them."""
    site = prepared_site(images, labels, key=f"site{len(list(folder.iterdir()))}-{seed}")
    channels = len(images[0]) * (3 if mode == "2.5d" else 1)
    task = Task("t", ("b", "f"), mode=mode, channels=channels)
    config = RunConfig(**{"augment": STILL, "batch_size": 4, "model": ModelConfig(depth=1), **run})
    train = range(len(images))
    data = SiteTrainingData(site, train, labeled, task, config, device, folder / f"st{seed}")
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return Batches(data, config, task, rng, generator), data
