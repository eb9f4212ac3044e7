"""Sites that join as their data managers would have them join, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fedssl
from fedssl.cli.processes import free_port
from fedssl.cli.superlink import SuperLink

ROOT = Path(fedssl.__file__).resolve().parents[1]
CLIENT = [sys.executable, "-c", "from clients.cli import app; app()"]

SITE = """\
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
mode = "2d"
output = "nested"
channels = 3
[[site]]
name = "{name}"
role = "{role}"
layout = "synthetic"
[site.options]
kind = "fundus"
look = {look}
images = 12
size = 32
[node]
coordinator = "{coordinator}"
state-dir = "{name}-state"
accept-code = {accept}
port = {port}
root-certificates = "{ca}"
key = "{key}"
"""

TINY = {
    "method": "fedavg",
    "rounds": 1,
    "local-steps": 2,
    "batch-size": 2,
    "model.width": 4,
    "model.depth": 2,
    "device": "cpu",
    "evaluate.every": 0,
    "evaluate.surface": False,
    "round-timeout": 300.0,
}


def site_file(
    folder: Path,
    coordinator: str,
    *,
    name: str = "north",
    role: str = "labeled",
    look: int = 0,
    accept: str = '"installed"',
    ca: str = "",
    key: str = "",
) -> Path:
    """Write the file of a synthetic site."""
    path = folder / f"{name}.toml"
    table = SITE.format(
        name=name,
        role=role,
        look=look,
        coordinator=coordinator,
        accept=accept,
        port=free_port(),
        ca=ca,
        key=key,
    )
    path.write_text(table)
    return path


@dataclass(frozen=True)
class Joined:
    """A running `fedssl-client join`."""

    process: subprocess.Popen[bytes]
    output: Path

    def log(self) -> str:
        """Return what the site has printed."""
        return self.output.read_text(errors="replace")


@contextmanager
def joined(
    path: Path, environment: Mapping[str, str] | None = None, *prefix: str
) -> Iterator[Joined]:
    """Join with a site file, and leave at the end."""
    output = path.with_suffix(".log")
    with output.open("ab") as log:
        process = subprocess.Popen(
            [*prefix, *CLIENT, "join", str(path)],
            cwd=path.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Joined(process, output)
    finally:
        process.terminate()
        process.wait(60)


def start_run(link: SuperLink, app: Path, config: Mapping[str, bool | int | float | str]) -> str:
    """Submit an app folder, return the run's number."""
    return link.submit(app, config, {})


def wait_until(done: Callable[[], bool], seconds: float = 120.0) -> None:
    """Poll a condition; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)
