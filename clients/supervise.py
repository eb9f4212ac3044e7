"""A site's two processes, Flower's SuperNode and our launcher: started, and kept running."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from fedssl.cli.processes import tool
from fedssl.deploy.site_file import NodeSpec
from fedssl.errors import ConfigError

__all__ = ["Node", "keep_running", "node_of"]

RETRY: Final = (2.0, 5.0, 15.0, 30.0)
"""Seconds before each new attempt; the last is repeated."""

SETTLED: Final = 120.0
"""A node that ran this long was connected; after it, waiting begins anew."""


@dataclass(frozen=True, slots=True)
class Node:
    """What runs at a site.

    Args:
        supernode: command of Flower's SuperNode, the only process that talks to the outside.
        launcher: command that starts a checked process per message.
        environment: of both.
        state: folder that they work in.
        secret: file with the secret that the two share; written anew at each start.
    """

    supernode: list[str]
    launcher: list[str]
    environment: Mapping[str, str]
    state: Path
    secret: Path


def node_of(site_file: Path, spec: NodeSpec) -> Node:
    """Return the processes of a site.

    Raises:
        ConfigError: a key or certificate that the site file names does not exist.
    """
    for key, path in (("root-certificates", spec.root_certificates), ("key", spec.key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"{site_file}: {key} names {path}, which is no file.")
    if spec.key and not spec.root_certificates:
        raise ConfigError(f"{site_file}: a key needs root-certificates; it is sent over TLS only.")
    state = Path(spec.state_dir)
    secret, local = state / "superexec.secret", f"127.0.0.1:{spec.port}"
    site = str(site_file.resolve())
    config = f"site-file={json.dumps(site)} state-dir={json.dumps(str(state))}"
    supernode = [tool("flower-supernode"), "--superlink", spec.coordinator]
    supernode += (
        ["--root-certificates", spec.root_certificates]
        if spec.root_certificates
        else ["--insecure"]
    )
    supernode += ["--auth-supernode-private-key", spec.key] if spec.key else []
    supernode += ["--host", "127.0.0.1", "--port", str(spec.port)]
    # SuperNode itself starts nothing; our launcher fetches the tasks and checks their code.
    supernode += ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
    supernode += ["--node-config", config]
    launcher = [sys.executable, "-P", "-m", "clients.launcher", site, local, str(secret)]
    return Node(supernode, launcher, _environment(state), state, secret)


def _environment(state: Path) -> dict[str, str]:
    environment = dict(os.environ)
    # The processes talk to each other on the loopback address, whatever proxy the hospital has.
    direct = [environment.get("NO_PROXY") or environment.get("no_proxy", "")]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(
        filter(None, [*direct, "127.0.0.1", "localhost"])
    )
    return environment | {
        "FLWR_HOME": str(state / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def keep_running(node: Node, say: Callable[[str], None]) -> None:
    """Run a node until SIGINT or SIGTERM; start it again whenever one of its processes ends.

    SuperNode ends when the coordinator does not know it (yet), and when a coordinator that lost
    its state comes back.

    Args:
        node: what to run.
        say: is told of every start and end.
    """
    stop = threading.Event()
    with _until_signal(stop):
        attempt = 0
        while not stop.is_set():
            begun = time.monotonic()
            code = _run_once(node, stop)
            if stop.is_set():
                return
            attempt = 0 if time.monotonic() - begun > SETTLED else attempt
            pause = RETRY[min(attempt, len(RETRY) - 1)]
            attempt += 1
            say(f"The node ended (status {code}); it is started again in {pause:.0f} s.")
            stop.wait(pause)


def _run_once(node: Node, stop: threading.Event) -> int | None:
    """Run both processes until one of them ends or `stop` is set; return SuperNode's status."""
    _prepare(node)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_start(node.supernode, node))
        processes.append(_start(node.launcher, node))
        while not stop.is_set() and all(p.poll() is None for p in processes):
            stop.wait(0.5)
        return processes[0].poll()
    finally:
        _end(processes)


def _prepare(node: Node) -> None:
    try:
        node.state.mkdir(parents=True, exist_ok=True)
        node.secret.unlink(missing_ok=True)
        handle = os.open(node.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(
            f"state-dir {node.state} cannot be written: {error.strerror or error}. Give a folder "
            "that belongs to the user who runs this."
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_hex(32).encode())


def _start(command: Sequence[str], node: Node) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own arguments
        command,
        cwd=node.state,
        env=dict(node.environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM lets SuperNode sign off; whoever does not end in time is killed with its children."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    deadline = time.monotonic() + 10
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _until_signal(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
