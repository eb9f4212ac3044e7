"""A SuperLink behind the proxy that is handed out, as processes, for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedssl.cli.processes import MARK, free_port, stop, tool
from fedssl.deploy.kit import template

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Coordinator:
    """A SuperLink on the loopback address and a proxy in front of it, both with TLS.

    Args:
        folder: of everything that the two write.
        keys: keyring with the server's certificate.
        direct: the SuperLink's port.
        proxied: the proxy's port.
        address: where the proxy listens.
        prefix: what goes before a command so that it runs on the coordinator's host.
    """

    folder: Path
    keys: Path
    direct: int
    proxied: int
    address: str = "127.0.0.1"
    prefix: Sequence[str] = ()

    @property
    def ca(self) -> str:
        """The authority that sites trust."""
        return str(self.keys / "authority/ca.crt")

    def superlink(self) -> list[str]:
        """Return the command of the SuperLink."""
        return [
            *[*self.prefix, tool("flower-superlink")],
            *["--host", "127.0.0.1", "--port", str(self.direct)],
            *["--database", str(self.folder / "state.db")],
            *["--ssl-ca-certfile", self.ca],
            *["--ssl-certfile", str(self.keys / "server/server.pem")],
            *["--ssl-keyfile", str(self.keys / "server/server.key")],
            *["--enable-supernode-auth", "--disable-runtime-dependency-installation"],
        ]

    def proxy(self) -> list[str]:
        """Return the command of the proxy: nginx as handed out, only places are changed."""
        text = template("nginx.conf")
        for old, new in (
            ("superlink superlink:8000;", f"superlink 127.0.0.1:{self.direct};"),
            ("listen 8443 ssl;", f"listen {self.address}:{self.proxied} ssl;"),
            ("listen 127.0.0.1:8081;", f"listen 127.0.0.1:{free_port()};"),
            ("resolver 127.0.0.11 valid=10s ipv6=off;", ""),
            ("/keys/ca.crt", self.ca),
            ("/keys/server", str(self.keys / "server/server")),
            ("/tmp/nginx", str(self.folder / "nginx")),
            ("worker_processes auto;", "worker_processes 1;"),
        ):
            assert old in text
            text = text.replace(old, new)
        file = self.folder / "nginx.conf"
        file.write_text(text)
        assert NGINX is not None
        options = ["-c", str(file), "-p", str(self.folder), "-g", "daemon off;"]
        return [*self.prefix, NGINX, *options]


@contextmanager
def serving(
    coordinator: Coordinator, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run both, and leave nothing behind.

    Args:
        coordinator: what is to run.
        environment: of the SuperLink and its ServerApp, besides what they need.
    """
    log = coordinator.folder / "superlink.log"
    with log.open("ab") as output:
        superlink = subprocess.Popen(
            coordinator.superlink(),
            cwd=coordinator.folder,
            env={
                **os.environ,
                **(environment or {}),
                MARK: str(coordinator.folder),
                "FLWR_HOME": str(coordinator.folder / "home"),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    proxy = subprocess.Popen(coordinator.proxy())
    try:
        yield
    finally:
        proxy.terminate()
        proxy.wait(20)
        stop(superlink, coordinator.folder)
