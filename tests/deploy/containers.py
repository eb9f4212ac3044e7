"""A compose project for the tests of this folder: brought up, looked at, and always taken down."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes import ROOT

IMAGE = "fedssl:test"
"""Built by the tests; kept, so that the next build is quick."""

STRANGER = 54321
"""A user that no password file knows."""


def reason_to_skip() -> str:
    """Return why there is no Docker engine with compose here, or ''."""
    if shutil.which("docker") is None:
        return "the command docker is not installed"
    found = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or [f"status {found.returncode}"]
        return f"no Docker engine answers: {lines[-1]}"
    return "" if compose_command() else "neither `docker compose` nor docker-compose is installed"


def compose_command() -> list[str]:
    """Return how compose is called here; [] where it is not installed."""
    if shutil.which("docker"):
        plugin = ["docker", "compose"]
        if not subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode:
            return plugin
    return ["docker-compose"] if shutil.which("docker-compose") else []


def docker(*arguments: str, timeout: float = 120) -> str:
    """Run docker, return what it prints; fail with what it complains about."""
    return checked(["docker", *arguments], timeout=timeout)


def run_once(user: int, *arguments: str, timeout: float = 300) -> str:
    """Run a command in a container that is gone afterwards, without network and privileges.

    Args:
        user: number of the user and group that it runs as.
        arguments: volumes, the image and the command.
        timeout: seconds that it may take.
    """
    name = f"fedssltest{secrets.token_hex(4)}"
    confined = ("--cap-drop=ALL", "--read-only", "--network=none", "--tmpfs=/tmp:mode=1777")
    try:
        return docker(
            *("run", f"--name={name}", f"--user={user}:{user}", *confined, *arguments),
            timeout=timeout,
        )
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


def checked(
    command: Sequence[str],
    timeout: float,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> str:
    """Run a command, return what it prints; fail with what it complains about."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def give(folder: Path, user: int) -> None:
    """Make a folder with all that is in it belong to the containers' user."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, user)


def container_user() -> int:
    """Return the user that containers run as: never root, and one who can own files here."""
    return os.getuid() or STRANGER


@dataclass(frozen=True)
class Project:
    """One compose project.

    Args:
        name: project name; labels everything that it makes.
        files: compose files, the first one's folder is the project's.
        environment: values for the files' variables.
    """

    name: str
    files: tuple[Path, ...]
    environment: Mapping[str, str]

    def command(self, *arguments: str) -> list[str]:
        """Return the compose command with these arguments."""
        files = [part for path in self.files for part in ("-f", str(path))]
        return [*compose_command(), "-p", self.name, *files, *arguments]

    def compose(self, *arguments: str, timeout: float = 240) -> str:
        """Run compose and return what it prints."""
        folder = self.files[0].parent
        return checked(self.command(*arguments), timeout, self.environment, folder)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Run compose in the background, its output in a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.files[0].parent,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def containers(self) -> list[str]:
        """Return the ids of all containers of the project, ended ones included."""
        label = f"label=com.docker.compose.project={self.name}"
        return docker("ps", "-aq", "--filter", label).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows about a service's container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self._container(service)))
        return found[0]

    def _container(self, service: str) -> str:
        return docker(
            *("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
        ).split()[0]

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return what it prints."""
        return docker("exec", self._container(service), *command)

    def health(self, service: str) -> str:
        """Return `starting`, `healthy` or `unhealthy`; '' while there is no container."""
        state = self.inspect(service)["State"]
        return str(state["Health"]["Status"]) if state["Running"] else ""

    def wait_healthy(self, *services: str, seconds: float = 180) -> None:
        """Wait until health checks pass; fail with the service's log."""
        deadline = time.monotonic() + seconds
        for service in services:
            while (state := self.health(service)) != "healthy":
                assert time.monotonic() < deadline, f"{service} is {state!r}\n{self.log(service)}"
                time.sleep(0.5)

    def kill(self, service: str) -> None:
        """Pull the plug: the container dies and stays away."""
        docker("kill", self._container(service))

    def crash(self, service: str) -> None:
        """Kill the service's own processes, as a crash would; its restart policy decides."""
        ours = "p.isdigit() and int(p) not in (1, os.getpid())"
        code = f"import os\nfor p in os.listdir('/proc'):\n  if {ours}:\n    os.kill(int(p), 9)"
        # Docker's init is process 1; the exec itself ends with the container.
        command = ["docker", "exec", self._container(service), "python", "-c", code]
        subprocess.run(command, capture_output=True, timeout=60, check=False)

    def log(self, service: str) -> str:
        """Return what a service has printed."""
        done = subprocess.run(
            ["docker", "logs", self._container(service)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout[-6000:]

    def down(self) -> None:
        """Remove containers, networks and volumes, whatever state they are in."""
        for container in self.containers():
            subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
        self.compose("down", "--volumes", "--remove-orphans")
