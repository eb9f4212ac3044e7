"""The proxy in front of the SuperLink lets sites work and refuses them everything else."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.control import router as control_router
from nodes import TINY, joined, site_file, wait_until

from fedssl.app_config import stage_app
from fedssl.cli.processes import MARK, free_port, stop, tool
from fedssl.cli.submit import register_nodes
from fedssl.cli.superlink import remote_superlink
from fedssl.config import flatten
from fedssl.deploy.health import healthy
from fedssl.deploy.keyring import extend_keyring
from fedssl.deploy.kit import template
from fedssl.deploy.nodes import read_registration
from fedssl.methods import load_config

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.federation,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

FLEET = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
PATHS = {path for _, path in PROTOBUF_REQUEST_TYPES} | {r.path for r in control_router.routes}
FORBIDDEN = sorted(PATHS - FLEET)


@dataclass(frozen=True)
class Coordinator:
    """A SuperLink behind a proxy, both with TLS, on the loopback address."""

    keys: Path
    direct: int
    proxied: int


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    folder = tmp_path_factory.mktemp("coordinator")
    keys = folder / "keys"
    extend_keyring(keys, hosts=["localhost"], sites=["north", "stranger"])
    running = Coordinator(keys, free_port(), free_port())
    mark = secrets.token_hex(8)
    superlink = subprocess.Popen(
        [
            *[tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(running.direct)],
            *["--ssl-ca-certfile", str(keys / "authority/ca.crt")],
            *["--ssl-certfile", str(keys / "server/server.pem")],
            *["--ssl-keyfile", str(keys / "server/server.key")],
            *["--enable-supernode-auth", "--disable-runtime-dependency-installation"],
        ],
        cwd=folder,
        env={
            **os.environ,
            MARK: mark,
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        start_new_session=True,
    )
    proxy = start_proxy(folder, running)
    try:
        wait_until(lambda: healthy(f"https://localhost:{running.proxied}/health", ca(running)))
        yield running
    finally:
        proxy.terminate()
        proxy.wait(20)
        stop(superlink, mark)


def ca(coordinator: Coordinator) -> str:
    return str(coordinator.keys / "authority/ca.crt")


def start_proxy(folder: Path, running: Coordinator) -> subprocess.Popen[bytes]:
    """Start nginx with the configuration that is handed out; only places are changed."""
    text = template("nginx.conf")
    for old, new in (
        ("superlink superlink:8000;", f"superlink 127.0.0.1:{running.direct};"),
        ("listen 8443 ssl;", f"listen 127.0.0.1:{running.proxied} ssl;"),
        ("resolver 127.0.0.11 valid=10s ipv6=off;", ""),
        ("/keys/ca.crt", ca(running)),
        ("/keys/server", str(running.keys / "server/server")),
        ("/tmp/nginx", str(folder / "nginx")),
        ("worker_processes auto;", "worker_processes 1;"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    assert NGINX is not None
    options = ["-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"]
    return subprocess.Popen([NGINX, *options])


def status(coordinator: Coordinator, port: int, path: str, method: str = "POST") -> int:
    """Return the status of a request, sent with exactly this path."""
    context = ssl.create_default_context(cafile=ca(coordinator))
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    try:
        headers = {"Content-Type": "application/protobuf"}
        connection.request(method, path, body=b"", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_there_are_control_and_runtime_paths_to_refuse() -> None:
    assert {"/v1/control/start-run", "/v1/control/register-node"} <= set(FORBIDDEN)
    assert sum(path.startswith("/v1/control/") for path in FORBIDDEN) > 10
    assert sum(path.startswith("/v1/runtime/") for path in FORBIDDEN) > 10


def test_the_superlink_itself_answers_on_control(coordinator: Coordinator) -> None:
    # Without this, the refusals below could come from a SuperLink that has no such paths.
    assert status(coordinator, coordinator.direct, "/v1/control/list-runs") == 200


@pytest.mark.parametrize("path", FORBIDDEN)
def test_a_site_is_refused_on_every_control_and_runtime_path(
    coordinator: Coordinator, path: str
) -> None:
    for method in ("POST", "GET"):
        assert status(coordinator, coordinator.proxied, path, method) == 403


@pytest.mark.parametrize(
    "path",
    [
        "//v1/control/list-runs",
        "/v1//control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/control%2flist-runs",
        "/V1/control/list-runs",
        "/v1/control/list-runs/",
        "/v1/control/list-runs?x=/v1/fleet/pull-messages",
        "/v1/control/list-runs;/v1/fleet/pull-messages",
        "/v1/control/list-runs%00/v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/docs",
        "/openapi.json",
        "/",
    ],
)
def test_no_spelling_of_a_path_slips_through(coordinator: Coordinator, path: str) -> None:
    assert status(coordinator, coordinator.proxied, path) in (400, 403)


def test_an_encoded_fleet_path_reaches_the_fleet_and_nothing_else(
    coordinator: Coordinator,
) -> None:
    # It is decoded by the proxy, and what goes on is spelled by the proxy: unsigned, so 401.
    path = "/v1/control/" + quote("../fleet/pull-messages", safe="")
    assert status(coordinator, coordinator.proxied, path) in (400, 401, 403)


@pytest.mark.slow
def test_a_site_with_a_registered_key_trains_through_the_proxy_and_a_stranger_does_not(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    listed = [n for n in read_registration(coordinator.keys / "nodes.csv") if n.site == "north"]
    certificates = {"ca": ca(coordinator)}
    address = f"localhost:{coordinator.proxied}"
    stranger = site_file(
        *(tmp_path, address),
        name="stranger",
        look=1,
        key=str(coordinator.keys / "nodes/stranger"),
        **certificates,
    )
    north = site_file(tmp_path, address, key=str(coordinator.keys / "nodes/north"), **certificates)
    with (
        remote_superlink(f"127.0.0.1:{coordinator.direct}", Path(ca(coordinator))) as link,
        joined(stranger) as refused,
    ):
        assert register_nodes(link, listed) == ["north"]
        assert register_nodes(link, listed) == []
        with joined(north) as running:
            config = flatten(load_config({**TINY, "out": str(tmp_path / "run")}))
            number = link.submit(stage_app(tmp_path / "app"), config, {})
            log = "".join(link.follow(number))
            assert link.status(number).completed, log + running.log()
        wait_until(lambda: "it is started again" in refused.log())
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results["sites"]) == ["north"]
