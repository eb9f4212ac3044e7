"""Two runs of a moment: pictures with pseudo-labels, and volumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.report.progress import run_progress

PICTURES = """
[task]
name = "eyes"
classes = ["background", "disc", "cup"]
mode = "2d"
output = "nested"
channels = 3
"""
VOLUMES = """
[task]
name = "glands"
classes = ["background", "prostate"]
mode = "3d"
"""
SITE = """
[[site]]
name = "{name}"
role = "{role}"
layout = "synthetic"
options = {{ kind = "{kind}", look = {look}, images = {images}, size = {size} }}
"""


def train(folder: Path, federation: str, **keys: object) -> Path:
    """Run a federation as the command line does, and return its run folder."""
    (folder / "federation.toml").write_text(federation)
    flat = {
        "federation": str(folder / "federation.toml"),
        "cache-dir": str(folder / "cache"),
        "device": "cpu",
        "batch-size": 2,
        "model.width": 2,
        "model.depth": 1,
        **keys,
    }
    run = load_config(flat)
    simulate(run, folder / "run", progress=run_progress(run, folder / "run", Console(quiet=True)))
    return folder / "run"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder: denoise on a labeled and an unlabeled site, evaluated every round."""
    sites = [("north", "labeled", 0), ("south", "unlabeled", 2)]
    federation = PICTURES + "".join(
        SITE.format(name=n, role=r, kind="fundus", look=look, images=12, size=32)
        for n, r, look in sites
    )
    return train(
        tmp_path_factory.mktemp("pictures"),
        federation,
        method="denoise",
        rounds=3,
        lr=0.02,
        **{
            "local-steps": 6,
            "denoise.warmup-rounds": 1,
            "denoise.refresh": 1,
            "denoise.passes": 2,
            "evaluate.every": 1,
            "evaluate.overlays": 3,
        },
    )


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder: fedavg on one labeled site with volumes."""
    site = SITE.format(name="east", role="labeled", kind="prostate", look=0, images=8, size=32)
    return train(
        tmp_path_factory.mktemp("volumes"),
        VOLUMES + site,
        method="fedavg",
        rounds=1,
        **{"local-steps": 1, "evaluate.every": 0, "evaluate.overlays": 2},
    )


@pytest.fixture
def copy(pictures: Path, tmp_path: Path) -> Path:
    """A run folder of one's own, without pictures."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("results.json", "rounds.jsonl", "config.toml"):
        shutil.copy(pictures / name, folder / name)
    return folder
