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

# Slow: several minutes with a process per message, and Flower voids a task after 30 s of silence.
pytestmark = [pytest.mark.federation, pytest.mark.slow]


@pytest.fixture(scope="module")
def link() -> Iterator[SuperLink]:
    with superlink(simulation=False) as running:
        yield running


@pytest.fixture(scope="module")
def site(link: SuperLink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """A site that runs installed code only."""
    path = site_file(tmp_path_factory.mktemp("north"), f"127.0.0.1:{link.port}")
    with joined(path, {"SITE": "north"}) as running:
        yield running


@pytest.fixture
def careless(link: SuperLink, tmp_path: Path) -> Iterator[Joined]:
    """A site that runs whatever comes."""
    address = f"127.0.0.1:{link.port}"
    path = site_file(tmp_path, address, name="south", look=1, accept='"any"')
    with joined(path, {"SITE": "south"}) as running:
        yield running


def run(link: SuperLink, app: Path, out: Path, **change: object) -> tuple[str, str]:
    """Run an app; return its status and its log."""
    config = flatten(load_config({**TINY, "out": str(out), **change}))  # type: ignore[dict-item]  # flat keys of several types
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


def test_an_altered_bundle_runs_at_the_careless_site_only(
    link: SuperLink, site: Joined, careless: Joined, tmp_path: Path
) -> None:
    mark = tmp_path / "ran-at"
    app = stage_app(tmp_path / "app")
    line = f"import os; open({str(mark)!r}, 'a').write(os.environ.get('SITE', '') + ' ')\n"
    for name in ("clients/__init__.py", "clients/app.py"):
        (app / name).write_text((app / name).read_text() + line)
    status, log = run(link, app, tmp_path / "run")
    assert status == "finished:completed", log + careless.log()
    assert "differs from the installed file" in log
    assert "BundleRefusedError" in site.log()
    assert set(mark.read_text().split()) == {"south"}
    assert list(json.loads((tmp_path / "run/results.json").read_text())["sites"]) == ["south"]


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
