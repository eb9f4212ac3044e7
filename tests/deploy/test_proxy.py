"""The proxy in front of the SuperLink lets sites work and refuses them everything else."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.control import router as control_router
from nodes import TINY, joined, site_file, wait_until
from proxies import NGINX, Coordinator, serving

from fedssl.app_config import stage_app
from fedssl.cli.processes import free_port
from fedssl.cli.submit import register_nodes
from fedssl.cli.superlink import remote_superlink
from fedssl.config import flatten
from fedssl.deploy.health import healthy
from fedssl.deploy.keyring import extend_keyring
from fedssl.deploy.nodes import read_registration
from fedssl.methods import load_config

pytestmark = [
    pytest.mark.federation,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

FLEET = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
PATHS = {path for _, path in PROTOBUF_REQUEST_TYPES} | {r.path for r in control_router.routes}
FORBIDDEN = sorted(PATHS - FLEET)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    folder = tmp_path_factory.mktemp("coordinator")
    extend_keyring(folder / "keys", hosts=["localhost"], sites=["north", "stranger"])
    running = Coordinator(folder, folder / "keys", free_port(), free_port())
    with serving(running):
        wait_until(lambda: healthy(f"https://localhost:{running.proxied}/health", running.ca))
        yield running


def status(coordinator: Coordinator, port: int, path: str, method: str = "POST") -> int:
    """Return the status of a request, sent with exactly this path."""
    context = ssl.create_default_context(cafile=coordinator.ca)
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
    certificates = {"ca": coordinator.ca}
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
        remote_superlink(f"127.0.0.1:{coordinator.direct}", Path(coordinator.ca)) as link,
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
