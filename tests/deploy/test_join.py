"""A site joins, refuses foreign code, and is there again after a restart of the coordinator."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import TINY, Joined, joined, site_file, wait_until

from fedssl.app_config import stage_app
from fedssl.cli.superlink import SuperLink, _start, superlink
from fedssl.config import flatten
from fedssl.methods import load_config

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def link() -> Iterator[SuperLink]:
    with superlink(simulation=False) as running:
        yield running


@pytest.fixture(scope="module")
def site(link: SuperLink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    path = site_file(tmp_path_factory.mktemp("site"), f"127.0.0.1:{link.port}")
    with joined(path) as running:
        yield running


def run(link: SuperLink, app: Path, out: Path, **change: object) -> tuple[str, str]:
    """Run an app; return its status and its log."""
    config = flatten(load_config({**TINY, "out": str(out), **change}))  # type: ignore[dict-item]
    number = link.submit(app, config, {})
    log = "".join(link.follow(number))
    return link.status(number).status, log


def test_a_run_of_the_installed_code_completes(
    link: SuperLink, site: Joined, tmp_path: Path
) -> None:
    status, log = run(link, stage_app(tmp_path / "app"), tmp_path / "run")
    assert status == "finished:completed", log + site.log()
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results["sites"]) == ["north"]


def test_an_altered_bundle_runs_no_line_at_the_site(
    link: SuperLink, site: Joined, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    app = stage_app(tmp_path / "app")
    for name in ("clients/__init__.py", "clients/app.py"):
        source = app / name
        line = f"open({str(mark)!r}, 'a').write(repr(__import__('sys').argv))\n"
        source.write_text(source.read_text() + line)
    status, log = run(link, app, tmp_path / "run", **{"round-timeout": 25.0})
    assert status == "finished:failed"
    assert "differs from the installed file" in log
    assert "BundleRefusedError" in site.log()
    assert not mark.exists(), mark.read_text()


def test_the_site_is_back_after_the_coordinator_lost_everything(
    link: SuperLink, site: Joined, tmp_path: Path
) -> None:
    os.killpg(link.process.pid, signal.SIGKILL)
    link.process.wait()
    again = _start(link.folder, link.port, link.environment, simulation=False)
    try:
        wait_until(lambda: "it is started again" in site.log())
        status, log = run(link, stage_app(tmp_path / "app"), tmp_path / "run")
        assert status == "finished:completed", log + site.log()
    finally:
        again.terminate()
        again.wait(30)


def test_nothing_is_left_when_the_site_leaves(link: SuperLink, tmp_path: Path) -> None:
    mark = f"LEAVES={tmp_path}"
    path = site_file(tmp_path, f"127.0.0.1:{link.port}")
    with joined(path, {"LEAVES": str(tmp_path)}) as running:
        wait_until(lambda: "Starting Flower SuperNode" in running.log())
        assert len(processes(mark)) >= 3
    assert processes(mark) == []
    assert running.process.returncode == 0


def processes(mark: str) -> list[int]:
    """Return the living processes that have this entry in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
