"""A SuperLink of our own for one run: free port, own home, neutral folder, nothing left behind.

`flwr run` would start a daemon that outlives it, on a port that all users of the machine share,
with the environment and folder of whoever came first.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedssl.cli.processes import MARK, free_port, guarded, stop, tool, undisturbed
from fedssl.config import Scalar
from fedssl.errors import ConfigError, FederationError
from fedssl.results import config_toml

__all__ = ["CONNECTION", "RunStatus", "SuperLink", "remote_superlink", "superlink"]

CONNECTION: Final = "private"
"""Name of the connection in the tools' configuration."""

STARTUP: Final = 120.0
"""Seconds that the SuperLink may take to answer."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run ended: `finished:completed`, `finished:failed` or `finished:stopped`."""

    status: str
    details: str

    @property
    def completed(self) -> bool:
        """Whether the run reached its end."""
        return self.status == "finished:completed"


@dataclass(frozen=True, slots=True)
class SuperLink:
    """A running SuperLink and the environment that its command-line tools need.

    Args:
        folder: temporary folder with everything it writes.
        port: of its one HTTP interface.
        environment: for child processes.
        process: the daemon; None where somebody else runs it.
    """

    folder: Path
    port: int
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def submit(self, app: Path, config: Mapping[str, Scalar], nodes: Mapping[str, Scalar]) -> str:
        """Start a run and return its id.

        Args:
            app: folder with the app's pyproject.toml.
            config: run config, flat keys.
            nodes: federation config, e.g. `num-supernodes`; empty in deployment.

        Raises:
            FederationError: Flower refuses the app or its configuration.
        """
        overrides = self.folder / "run-config.toml"
        overrides.write_text(config_toml(config), encoding="utf-8")
        command = ["run", str(app), CONNECTION, "--run-config", str(overrides)]
        if nodes:
            command += ["--federation-config", " ".join(f"{k}={v}" for k, v in nodes.items())]
        answer = self.flwr([*command, "--format", "json"])
        if not answer.get("run-id"):
            raise FederationError(f"Flower does not start the run: {_reason(answer)}")
        return str(answer["run-id"])

    def follow(self, run: str) -> Iterator[str]:
        """Yield the lines of a run's log until the run ends."""
        with subprocess.Popen(  # noqa: S603 - our own arguments
            [tool("flwr"), "log", run, CONNECTION, "--stream"],
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            yield from process.stdout

    def status(self, run: str, patience: float = 30.0) -> RunStatus:
        """Return how a run ended; its log may end a moment before its status is set."""
        deadline = time.monotonic() + patience
        while True:
            answer = self.flwr(["ls", CONNECTION, "--run-id", run, "--format", "json"])
            rows = answer.get("runs") or [{"status": "unknown", "status-details": _reason(answer)}]
            found = RunStatus(rows[0]["status"], rows[0]["status-details"])
            if found.status.startswith("finished") or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def log(self) -> str:
        """Return what the daemon itself has printed."""
        return _log_file(self.folder).read_text(encoding="utf-8", errors="replace")

    def flwr(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Run Flower's command-line tool and return the JSON object that it prints."""
        done = subprocess.run(  # noqa: S603 - our own arguments
            [tool("flwr"), *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        # The tool may print notes before the JSON object.
        found = re.search(r"^\{.*\}\s*$", done.stdout, re.DOTALL | re.MULTILINE)
        try:
            answer: dict[str, Any] = json.loads(found.group()) if found else {}
        except json.JSONDecodeError:
            answer = {}
        return answer or {"error-message": (done.stdout + done.stderr).strip()}


@contextlib.contextmanager
def superlink(*, simulation: bool) -> Iterator[SuperLink]:
    """Run a SuperLink on the loopback address; end it and all its descendants on exit.

    Args:
        simulation: whether runs simulate their nodes on Ray, or wait for SuperNodes.

    Raises:
        FederationError: it does not come up.
    """
    # A short path: Ray puts sockets below it, and their names may have about 100 characters.
    base = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 -- checked to be there; Ray needs a short path
    folder = Path(tempfile.mkdtemp(prefix="fedssl-", dir=base)).resolve()
    environment = _environment(folder)
    port = free_port()
    process = None
    with guarded(folder):
        try:
            _write_connection(folder, f"127.0.0.1:{port}")
            process = _start(folder, port, environment, simulation=simulation)
            _wait_until_healthy(process, port, folder)
            yield SuperLink(folder, port, environment, process)
        finally:
            with undisturbed():
                if process is not None:
                    stop(process, folder)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def remote_superlink(address: str, root_certificates: Path | None) -> Iterator[SuperLink]:
    """Connect to a SuperLink that somebody else runs.

    Args:
        address: `host:port` of its control interface; the coordinator's machine reaches it, sites
            do not.
        root_certificates: authority that signed its certificate; None: no TLS.

    Raises:
        ConfigError: the address has no port, or there is no such authority.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--superlink takes host:port, e.g. 127.0.0.1:8000; got {address!r}.")
    if root_certificates is not None and not root_certificates.is_file():
        raise ConfigError(f"--root-certificates: {root_certificates} is no file; give ca.crt.")
    folder = Path(tempfile.mkdtemp(prefix="fedssl-"))
    try:
        security = "insecure = true"
        if root_certificates is not None:
            security = f"root-certificates = {json.dumps(str(root_certificates.resolve()))}"
        _write_connection(folder, address, security)
        yield SuperLink(folder, int(port), _environment(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    # Flower's daemons find each other's programs through PATH.
    scripts = str(Path(sys.executable).parent)
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", "")])
    direct = [environment.get("NO_PROXY", ""), "127.0.0.1", "localhost"]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(d for d in direct if d)
    return environment | {
        MARK: str(folder),
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore:Tip:FutureWarning",
        "COLUMNS": str(max(100, shutil.get_terminal_size().columns)),
    }


def _write_connection(folder: Path, address: str, security: str = "insecure = true") -> None:
    for name in ("home", "work", "ray"):
        (folder / name).mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{address}"\n{security}\n',
        encoding="utf-8",
    )


def _log_file(folder: Path) -> Path:
    return folder / "superlink.log"


def _start(
    folder: Path, port: int, environment: Mapping[str, str], *, simulation: bool
) -> subprocess.Popen[bytes]:
    command = [tool("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    command += ["--simulation"] if simulation else []
    with _log_file(folder).open("wb") as log:
        # A neutral working directory: Ray puts it in front of the code that Flower ships.
        return subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            cwd=folder / "work",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        if _healthy(port):
            return
        time.sleep(0.1)
    tail = _log_file(folder).read_text(encoding="utf-8", errors="replace")[-2000:]
    raise FederationError(f"The SuperLink did not start within {STARTUP:.0f} s. Its log:\n{tail}")


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    return False


def _reason(answer: Mapping[str, Any]) -> str:
    return str(answer.get("error-message") or answer)
