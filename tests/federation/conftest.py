"""Sites so small that a round takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_processes import ROLES, TASK, Deployment, deploy, site_tables

from fedssl.config import Scalar


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation.toml with one site of each role, and a site file for each beside it."""
    folder = tmp_path_factory.mktemp("federation")
    sites = site_tables()
    (folder / "federation.toml").write_text(TASK + "".join(sites.values()))
    for name, table in sites.items():
        (folder / f"{name}.toml").write_text(TASK + table)
    return folder / "federation.toml"


@pytest.fixture
def tiny(federation: Path, tmp_path: Path) -> dict[str, Scalar]:
    """Flat keys of a run that takes seconds."""
    return {
        "federation": str(federation),
        "cache-dir": str(tmp_path / "cache"),
        "method": "fedavg",
        "rounds": 3,
        "local-steps": 2,
        "batch-size": 2,
        "model.width": 4,
        "model.depth": 2,
        "device": "cpu",
        "evaluate.every": 0,
        "round-timeout": 600.0,
    }


@pytest.fixture(scope="module")
def deployment(federation: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One SuperLink and the three sites, for all tests of a module."""
    files = {name: federation.with_name(f"{name}.toml") for name in ROLES}
    with deploy(files, tmp_path_factory.mktemp("deployment")) as running:
        yield running
