"""`denoise`: trusted pixels are right more often than others."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_federations import (
    Finished,
    open_sites,
    run_watched,
    tiny_run,
    write_federation,
)

from fedssl.config import Scalar, flatten
from fedssl.methods import load_config
from fedssl.types import Download

GAMMA = 0.3
"""So low that raw labels hold wrong pixels; with 0.75 every pixel of a disc may be right."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Finished:
    """Two labeled sites teach until the loss is level; a third has not been seen."""
    roles = {"east": "labeled", "north": "labeled", "west": "unlabeled"}
    folder = tmp_path_factory.mktemp("learned")
    keys: dict[str, Scalar] = {
        "method": "fedavg",
        "rounds": 20,
        "local-steps": 20,
        "batch-size": 4,
        "lr": 0.003,
        "model.width": 8,
        "model.depth": 3,
    }
    run = tiny_run(write_federation(folder, roles, images=12, size=48), prepared_cache, keys)
    return run_watched(run, folder / "run")


def quality(learned: Finished, folder: Path, denoising: str) -> dict[str, float]:
    """Label the unseen site with the learned weights, and compare with its hidden masks."""
    from fedssl.evaluate import means

    keys = {"method": "denoise", "denoise.denoising": denoising, "denoise.warmup-rounds": 0}
    keys |= {"denoise.gamma": GAMMA}
    flat = {**flatten(learned.run), **keys, "rounds": 1, "local-steps": 1, "out": str(folder)}
    run = load_config({k: v for k, v in flat.items() if not k.startswith("fedavg.")})
    site = open_sites(run, folder)["west"]
    weights = load_file(learned.folder / "model.safetensors")
    clock = {"phase": 2.0, "refresh": 1.0}
    site.answer(Download("r", 0, "train", "west", 0, weights, {}, ("shared",), clock))
    options = {"split": "val"}
    evaluation = Download("r", 1, "evaluate", "west", 1, weights, options=options)
    return means(site.answer(evaluation).metrics)


@pytest.mark.parametrize("denoising", ["prototype", "both"])
def test_trusted_pixels_are_right_more_often_than_the_raw_pseudo_label(
    denoising: str, learned: Finished, tmp_path: Path
):
    found = quality(learned, tmp_path, denoising)
    for name in ("disc", "cup"):
        assert found[f"pseudo_dice/{name}"] > 0.5, "the teacher has learned nothing"
        assert found[f"trusted_precision/{name}"] > found[f"pseudo_precision/{name}"]
        if denoising == "both":
            assert found[f"trusted_accuracy/{name}"] > found[f"pseudo_accuracy/{name}"]


def test_without_denoising_every_pixel_is_trusted(learned: Finished, tmp_path: Path):
    found = quality(learned, tmp_path, "none")
    for name in ("disc", "cup"):
        assert found[f"trusted_precision/{name}"] == found[f"pseudo_precision/{name}"]
        assert found[f"trusted_accuracy/{name}"] == found[f"pseudo_accuracy/{name}"]
