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

__all__ = ["MARK", "free_port", "guarded", "marked", "stop", "tool", "undisturbed"]

MARK: Final = "FEDSSL_PROCESS_MARK"
"""Environment variable by which every descendant is found, in whatever session or group it is."""


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
def guarded(mark: str, folder: Path) -> Iterator[None]:
    """Have another process clean up if this one is killed and cannot do it itself.

    The guard waits for the end of a pipe that only this process holds open.

    Args:
        mark: value of `MARK` in the environment of what is to be ended.
        folder: what is to be removed.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    guard = subprocess.Popen(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "fedssl.cli.processes", mark, str(folder)],
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


def stop(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the daemon, then whatever still carries its mark: Ray's processes leave its group."""
    _signal([process.pid], signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    _end_marked(mark)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_marked(mark: str) -> None:
    """Ask them to end, insist after three seconds, and go when none was seen three times."""
    told: set[int] = set()
    begun, quiet = time.monotonic(), 0
    # One that is just being started is not seen at once: its environment is still empty.
    while quiet < 3 and time.monotonic() < begun + 6:
        alive, insist = marked(mark), time.monotonic() > begun + 3
        new = [process for process in alive if insist or process not in told]
        _signal(new, signal.SIGKILL if insist else signal.SIGTERM)
        told.update(alive)
        quiet = 0 if alive else quiet + 1
        time.sleep(0.1)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def marked(mark: str) -> list[int]:
    """Return the living processes that inherited our mark (none where there is no /proc)."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if needle in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def _guard(mark: str, folder: str) -> None:
    sys.stdin.buffer.read()
    _end_marked(mark)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
