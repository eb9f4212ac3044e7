"""The Flower app bundle, and the two commands of Flower's own that users type."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loopback_processes import ROOT, marked_with, results, wait_until

from fedssl.cli.processes import free_port, tool

pytestmark = [pytest.mark.federation, pytest.mark.timeout(1500)]

PACKAGES = ("fedssl", "clients", "server")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a user has after cloning, with some clutter of his own."""
    folder = tmp_path / "fedssl"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package)
    for name in ("pyproject.toml", "LICENSE", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("notes.md", "data/patient.json", "runs/1/results.json", "fedssl/data/scan.npz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A fresh home without a network; whatever Flower starts in it ends with the test."""
    mark = f"FEDSSL_TEST={tmp_path}"
    home = tmp_path / "home"
    home.mkdir()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "FEDSSL_"))}
    yield inherited | {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "UV_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FEDSSL_TEST": str(tmp_path),
    }
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in marked_with(mark):
            with suppress(ProcessLookupError):
                os.kill(process, number)
        with suppress(AssertionError):
            wait_until(lambda: not marked_with(mark), 10)
    assert marked_with(mark) == []


def flwr(
    *arguments: str, cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("flwr"), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def fingerprint_in(folder: Path) -> str:
    """Return the fingerprint of the packages in a folder, computed by themselves."""
    code = "from fedssl.fingerprint import code_fingerprint; print(code_fingerprint())"
    return subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)


def test_the_bundle_holds_the_code_and_nothing_else(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = flwr("build", cwd=checkout, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = checkout.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "extracted")
        names = set(archive.namelist())
    code = {
        path.relative_to(checkout).as_posix()
        for package in PACKAGES
        for path in (checkout / package).rglob("*.py")
    }
    assert names == code | {"pyproject.toml", ".info/CONTENT"}
    assert fingerprint_in(tmp_path / "extracted") == fingerprint_in(checkout)


def test_a_bare_flwr_run_works_offline_and_leaves_pyproject_alone(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    before = (checkout / "pyproject.toml").read_bytes()
    small = "rounds=1 local-steps=1 batch-size=2 model.width=2 model.depth=1 image-size='32'"
    out = tmp_path / "out"
    done = flwr(
        "run",
        ".",
        "--stream",
        "--run-config",
        f"{small} method='fedavg' out='{out}'",
        cwd=checkout,
        environment=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(out)["engine"] == "ray", done.stdout
    assert set(results(out)["sites"]) == {"clinic_a", "clinic_c"}
    assert "uv sync took" in done.stdout  # the default that would install everything again
    assert "No additional application dependencies needed installation" in done.stdout
    assert (checkout / "pyproject.toml").read_bytes() == before
