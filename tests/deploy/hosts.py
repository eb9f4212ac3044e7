"""Hosts in network namespaces, joined by a switch that delays, loses and cuts.

The switch runs in a thread of the tests, over one TAP device per host, so it needs root and
/dev/net/tun, but no traffic control in the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import secrets
import selectors
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
TAP_WITHOUT_INFO = 0x0002 | 0x1000
LONGEST_FRAME = 2048
QUEUE = 0.5
"""Seconds of traffic that wait for a slow link; what comes on top is dropped, as in a router."""

_libc = ctypes.CDLL(None, use_errno=True)


def reason_to_skip() -> str:
    """Return why no hosts can be made here, or ''."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            return f"the command {tool} is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    probe = f"probe{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"ip netns add: {made.stderr.decode().strip()}"


@dataclass
class Host:
    """A host with one link; what is set here acts on frames of both directions.

    Args:
        namespace: name of its network namespace.
        address: its IPv4 address.
        device: the TAP device, from the switch's side.
        delay: seconds that a frame takes on its way out.
        loss: share of frames that are lost, each way.
        rate: bytes per second each way; 0: as fast as it goes.
        up: False: the cable is out.
    """

    namespace: str
    address: str
    device: int
    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    up: bool = True
    passed: int = 0
    lost: int = 0
    busy_out: float = 0.0
    busy_in: float = 0.0

    @property
    def prefix(self) -> list[str]:
        """Return what goes before a command so that it runs on this host."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command here."""
        return subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=timeout, check=False
        )

    def _queued(self, now: float, size: int, busy: float) -> float | None:
        """Return when a frame has gone through the link at its rate; None: the queue is full."""
        begin = max(now, busy)
        if not self.rate:
            return now
        return None if begin - now > QUEUE else begin + size / self.rate

    def leaves(self, now: float, size: int, chance: random.Random) -> float | None:
        """Return when a frame from this host is at the switch; None: it is lost."""
        done = self._queued(now, size, self.busy_out)
        if done is None or not self.up or chance.random() < self.loss:
            self.lost += 1
            return None
        self.busy_out = done
        return done + self.delay

    def reaches(self, now: float, size: int, chance: random.Random) -> float | None:
        """Return when a frame at the switch is at this host; None: it is lost."""
        done = self._queued(now, size, self.busy_in)
        if done is None or not self.up or chance.random() < self.loss:
            self.lost += 1
            return None
        self.busy_in = done
        self.passed += 1
        return done


@contextlib.contextmanager
def segment(names: Sequence[str], network: str = "10.77.0", seed: int = 0) -> Iterator[list[Host]]:
    """Make hosts on one Ethernet segment, with no way out of it.

    Args:
        names: of the hosts.
        network: first three numbers of their addresses.
        seed: of what is lost.
    """
    mark = secrets.token_hex(3)
    hosts: list[Host] = []
    end = threading.Event()
    switch = threading.Thread(target=_switch, args=(hosts, end, random.Random(seed)), daemon=True)
    try:
        for number, name in enumerate(names, start=1):
            namespace = f"fs-{mark}-{name}"
            _ip("netns", "add", namespace)
            hosts.append(Host(namespace, f"{network}.{number}", -1))
            hosts[-1].device = _device(namespace, hosts[-1].address)
        switch.start()
        yield hosts
    finally:
        end.set()
        if switch.ident is not None:
            switch.join(10)
        for host in hosts:
            _remove(host)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _device(namespace: str, address: str) -> int:
    """Make eth0 inside a namespace and return the switch's side of it."""
    opened: list[int] = []

    def enter() -> None:
        # A namespace is a thread's, not the process's: this thread ends when the device is made.
        inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if _libc.setns(inside, CLONE_NEWNET) == 0:
                tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", TAP_WITHOUT_INFO))
                opened.append(tap)
        finally:
            os.close(inside)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert opened, f"no TAP device in {namespace}: errno {ctypes.get_errno()}"
    _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", namespace, "link", "set", device, "up")
    return opened[0]


def _remove(host: Host) -> None:
    """End what still runs on a host, and take it away."""
    done = subprocess.run(
        ["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=False
    )
    for process in done.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    if host.device >= 0:
        os.close(host.device)
    subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)


def _switch(hosts: list[Host], end: threading.Event, chance: random.Random) -> None:
    """Carry frames between hosts until `end`."""
    by_device = {host.device: host for host in hosts}
    by_hardware: dict[bytes, Host] = {}
    order = itertools.count()
    travelling: list[tuple[float, int, Host, bytes]] = []
    with selectors.DefaultSelector() as selector:
        for device in by_device:
            selector.register(device, selectors.EVENT_READ)
        while not end.is_set():
            pause = travelling[0][0] - time.monotonic() if travelling else 0.2
            for key, _ in selector.select(min(0.2, max(0.0, pause))):
                source = by_device[key.fd]
                for frame in _frames(key.fd):
                    by_hardware[frame[6:12]] = source
                    known = by_hardware.get(frame[:6])
                    targets = [known] if known else [h for h in hosts if h is not source]
                    at = source.leaves(time.monotonic(), len(frame), chance)
                    for target in targets if at is not None else []:
                        heapq.heappush(travelling, (at, next(order), target, frame))
            _deliver(travelling, chance)


def _frames(device: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            yield os.read(device, LONGEST_FRAME)


def _deliver(travelling: list[tuple[float, int, Host, bytes]], chance: random.Random) -> None:
    """Hand over the frames whose time has come."""
    while travelling and travelling[0][0] <= time.monotonic():
        _, _, target, frame = heapq.heappop(travelling)
        if target.reaches(time.monotonic(), len(frame), chance) is not None:
            # A full queue drops it, as in a real device.
            with contextlib.suppress(OSError):
                os.write(target.device, frame)
