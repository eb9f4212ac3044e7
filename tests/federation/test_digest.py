"""One run, three engines, the same weights: in this process, on Ray, and over the network."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback_processes import ROLES, Deployment, digest, fedssl_run, results
from rich.console import Console

from fedssl.config import Scalar
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.progress import ConsoleProgress

pytestmark = [pytest.mark.federation, pytest.mark.timeout(1500)]

QUICK = "denoise-two-stages"
"""Has all that the others have, and more messages of more kinds."""

RUNS: dict[str, dict[str, Scalar]] = {
    "fedavg": {"method": "fedavg"},
    "denoise": {"method": "denoise", "denoise.warmup-rounds": 1, "denoise.passes": 3},
    QUICK: {
        "method": "denoise",
        "denoise.warmup-rounds": 1,
        "denoise.passes": 3,
        "denoise.source": "labeled_avg",
        "denoise.prototypes": "labeled",
    },
}


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp("loopback") / name for name in RUNS}


@pytest.fixture(params=[n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RUNS])
def expected(
    request: pytest.FixtureRequest, tiny: dict[str, Scalar], loopback: dict[str, Path]
) -> tuple[dict[str, Scalar], Path]:
    """A run's keys, and its run folder when all sites live in this process."""
    flat, folder = {**tiny, **RUNS[request.param]}, loopback[request.param]
    if not folder.exists():
        simulate(load_config(flat), folder, progress=ConsoleProgress(Console(quiet=True)))
    return flat, folder


def test_ray_gives_the_weights_of_the_loopback(
    expected: tuple[dict[str, Scalar], Path], tmp_path: Path
) -> None:
    flat, folder = expected
    done = fedssl_run(flat, tmp_path / "ray", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path / "ray")["engine"] == "ray"
    assert digest(tmp_path / "ray") == digest(folder)
    assert scores(tmp_path / "ray") == scores(folder)


def test_a_deployment_gives_the_weights_of_the_loopback(
    expected: tuple[dict[str, Scalar], Path], tmp_path: Path, deployment: Deployment
) -> None:
    flat, folder = expected
    flat = {**flat, "cache-dir": "", "min-labeled": 2}
    status, log = deployment.run(flat, tmp_path / f"deployment-{flat['method']}")
    out = tmp_path / f"deployment-{flat['method']}"
    assert status.completed, status.details + log
    assert results(out)["engine"] == "deployment"
    assert digest(out) == digest(folder)
    assert scores(out) == scores(folder)


def scores(folder: Path) -> dict[str, object]:
    """Return what was measured per site; one value per case never arrives here."""
    sites = results(folder)["sites"]
    assert set(sites) == set(ROLES)
    return {name: (site["dice"], site["pseudo_dice"]) for name, site in sites.items()}
