"""Real Flower processes on the loopback address, for the tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fedssl
from fedssl.app_config import stage_app
from fedssl.cli.processes import free_port, tool
from fedssl.cli.superlink import RunStatus, SuperLink, superlink
from fedssl.config import Scalar, flatten
from fedssl.methods import load_config

ROOT = Path(fedssl.__file__).resolve().parents[1]

TASK = """\
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
mode = "2d"
output = "nested"
channels = 3
"""
SITE = """
[[site]]
name = "{name}"
role = "{role}"
layout = "synthetic"
{extra}
[site.options]
kind = "fundus"
look = {look}
images = 12
size = 32
"""
ROLES = {"north": "labeled", "south": "mixed", "west": "unlabeled"}


def site_tables() -> dict[str, str]:
    """Return the `[[site]]` table of each site."""
    return {
        name: SITE.format(
            name=name, role=role, look=look, extra="labeled = 3" if role == "mixed" else ""
        )
        for look, (name, role) in enumerate(ROLES.items())
    }


def digest(folder: Path) -> str:
    """Return the digest of the final weights of a run folder."""
    return str(results(folder)["weights_sha256"])


def results(folder: Path) -> dict[str, Any]:
    """Return the results of a run folder."""
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def assignments(flat: Mapping[str, Scalar]) -> list[str]:
    """Return `--set` options."""
    return [a for k, v in flat.items() for a in ("--set", f"{k}={json.dumps(v)}")]


def fedssl_run(
    flat: Mapping[str, Scalar],
    out: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `fedssl run` in a process of its own, away from the checkout."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [*FEDSSL, "run", "--out", str(out), *options, *assignments(flat)],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


FEDSSL = [sys.executable, "-c", "from fedssl.cli import app; app()"]


@dataclass(frozen=True)
class Deployment:
    """A SuperLink with SuperNodes; each node is a site with a folder of its own."""

    link: SuperLink
    nodes: Mapping[str, subprocess.Popen[bytes]]
    folder: Path

    def run(self, flat: Mapping[str, Scalar], out: Path) -> tuple[RunStatus, str]:
        """Submit a run, wait for its end, and return how it ended with its log."""
        config = flatten(load_config({**flat, "out": str(out)}))
        number = self.link.submit(stage_app(self.folder / out.name), config, {})
        log = "".join(self.link.follow(number))
        return self.link.status(number), log

    def node_log(self, site: str) -> str:
        """Return what a site's own process has printed."""
        return (self.folder / f"{site}.log").read_text(errors="replace")


@contextmanager
def deploy(sites: Mapping[str, Path], folder: Path) -> Iterator[Deployment]:
    """Start a SuperLink and one SuperNode per site file."""
    with superlink(simulation=False) as link:
        nodes = {name: start_node(link, name, path, folder) for name, path in sites.items()}
        try:
            yield Deployment(link, nodes, folder)
        finally:
            for node in nodes.values():
                node.terminate()
            for node in nodes.values():
                node.wait(30)


def start_node(
    link: SuperLink,
    name: str,
    site_file: Path,
    folder: Path,
    security: Sequence[str] = ("--insecure",),
) -> subprocess.Popen[bytes]:
    """Start one SuperNode as its operator would."""
    command = [tool("flower-supernode"), *security, "--superlink", f"127.0.0.1:{link.port}"]
    command += ["--host", "127.0.0.1", "--port", str(free_port())]
    command += ["--node-config", f'site-file="{site_file}" state-dir="{folder / name}"']
    home = folder / f"{name}-home"
    home.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=home,
            env={**link.environment, "FLWR_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll a condition; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def marked_with(entry: str) -> list[int]:
    """Return the living processes with this entry in their environment, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if entry.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def family(ancestor: int) -> set[tuple[int, int]]:
    """Return the living descendants as (process, start time), by whom each was started.

    Some cannot be found by their environment: the titles of Ray's agents overwrite it.
    """
    table = {int(path.parent.name): _stat(path) for path in Path("/proc").glob("[0-9]*/stat")}
    found = {ancestor}
    while more := {p for p, (_, parent, _) in table.items() if parent in found} - found:
        found |= more
    return {(process, table[process][2]) for process in found - {ancestor}}


def survivors(processes: set[tuple[int, int]], patience: float) -> list[tuple[int, str]]:
    """Return those that live after so many seconds, with their command lines."""
    deadline = time.monotonic() + patience
    while (found := living(processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def living(processes: set[tuple[int, int]]) -> list[tuple[int, str]]:
    """Return those that live, with their command lines."""
    found = []
    for process, started in sorted(processes):
        state, _, since = _stat(Path(f"/proc/{process}/stat"))
        if since == started and state != "Z":
            with suppress(OSError):
                found.append((process, Path(f"/proc/{process}/cmdline").read_text()[:200]))
    return found


def _stat(path: Path) -> tuple[str, int, int]:
    """Return a process's state, parent and start time; they follow its name in brackets."""
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except OSError:
        return ("Z", 0, 0)
    return (fields[0], int(fields[1]), int(fields[19]))
