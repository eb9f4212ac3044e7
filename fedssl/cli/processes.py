"""Child processes that must not outlive their run, wherever they move to and however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fedssl.errors import FederationError

__all__ = ["MARK", "belonging", "free_port", "guarded", "stop", "tool", "undisturbed"]

MARK: Final = "FEDSSL_PROCESS_FOLDER"
"""Environment variable by which descendants are found, in whatever session or group they are."""


def tool(name: str) -> str:
    """Return a console script of this very environment; others may be earlier in PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FederationError(f"The command {name!r} is not installed; run: pip install fedssl")
    return found


def free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C, which would leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Have another process clean up if this one is killed and cannot do it itself.

    The guard waits for the end of a pipe that only this process holds open.

    Args:
        folder: to be removed; its name is the value of `MARK` for all that is to be ended.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    guard = subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "fedssl.cli.processes", str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the daemon, then what else belongs to its folder: Ray's processes leave its group."""
    _signal([process.pid], signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    _end_all(folder)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_all(folder: Path) -> None:
    """Ask them to end, insist after three seconds, and go when none was seen three times."""
    told: set[int] = set()
    begun, quiet = time.monotonic(), 0
    # One that is just being started is not seen at once: its environment is still empty.
    while quiet < 3 and time.monotonic() < begun + 6:
        alive, insist = belonging(folder), time.monotonic() > begun + 3
        new = [process for process in alive if insist or process not in told]
        _signal(new, signal.SIGKILL if insist else signal.SIGTERM)
        told.update(alive)
        quiet = 0 if alive else quiet + 1
        time.sleep(0.1)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def belonging(folder: Path) -> list[int]:
    """Return the living processes of a run's folder (none where there is no /proc).

    They carry its name in their environment or work below it. One alone does not find all: the
    titles that Ray gives to its agents overwrite their environment, and tools may change folder.
    """
    needle = f"{MARK}={folder}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            cwd = (process / "cwd").readlink()
            if needle in (process / "environ").read_bytes() or cwd.is_relative_to(folder):
                found.append(int(process.name))
    return found


def _guard(folder: Path) -> None:
    sys.stdin.buffer.read()
    _end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
