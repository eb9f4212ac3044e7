"""The files of the real case, coordinator.yml with its proxy and site.yml, from written kits."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from containers import IMAGE, Project, container_user, docker, give, reason_to_skip, run_once
from nodes import ROOT, TINY

from fedssl.cli.processes import free_port
from fedssl.results import config_toml

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

HOST = "fl.example.test"
DEPLOYMENT = f"""\
[coordinator]
host = "{HOST}"
port = 8443
image = "{IMAGE}"
[task]
name = "synthetic-fundus"
classes = ["background", "disc", "cup"]
output = "nested"
channels = 3
[[site]]
name = "north"
role = "labeled"
layout = "synthetic"
options = {{ kind = "fundus", look = 0, images = 12, size = 32 }}
[[site]]
name = "west"
role = "unlabeled"
layout = "synthetic"
options = {{ kind = "fundus", look = 2, images = 12, size = 32 }}
"""
EXPERIMENT = {**TINY, "method": "denoise", "rounds": 2, "denoise.warmup-rounds": 1}
# The tests' containers find each other by name; hospitals have the Internet between them.
PROXY_HAS_A_NAME = f"""\
services:
  proxy:
    networks:
      control: {{}}
      outside:
        aliases: [{HOST}]
"""
SITE_IS_OUTSIDE = """\
networks:
  default:
    external: true
    name: {outside}
"""
ASK = f"""
import http.client, ssl
context = ssl.create_default_context(cafile='/site/keys/ca.crt')
for path in ('control/list-runs', 'control/start-run', 'control/register-node',
             'runtime/acquire-task', 'runtime/push-messages'):
    connection = http.client.HTTPSConnection('{HOST}', 8443, timeout=20, context=context)
    connection.request('POST', '/v1/' + path, body=b'')
    print(connection.getresponse().status)
"""
REACH = "import socket; socket.create_connection(('{host}', {port}), 5)"


@dataclass(frozen=True)
class Deployed:
    """A coordinator and two sites, each a compose project with a kit as its folder."""

    coordinator: Project
    sites: dict[str, Project]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    proxy = os.environ.get("FEDSSL_PROXY_IMAGE") or default_proxy_image()
    if not available(proxy):
        pytest.skip(f"there is no image {proxy} and it cannot be pulled (FEDSSL_PROXY_IMAGE)")
    folder, user = tmp_path_factory.mktemp("hospitals"), container_user()
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    (folder / "deploy.toml").write_text(DEPLOYMENT)
    build_image(user)
    give(folder, user)
    command = ("fedssl", "deploy", "/here/deploy.toml", "--out=/here/kits")
    run_once(user, "-v", f"{folder}:/here", IMAGE, *command)
    kits = folder / "kits"
    (kits / "coordinator/experiment.toml").write_text(config_toml(EXPERIMENT))
    mark = f"fedssltest{secrets.token_hex(4)}"
    outside, named = folder / "outside.yml", folder / "named.yml"
    outside.write_text(SITE_IS_OUTSIDE.format(outside=f"{mark}c_outside"))
    named.write_text(PROXY_HAS_A_NAME)
    own = {"FEDSSL_UID": str(user), "FEDSSL_GID": str(user)}
    place = {"FEDSSL_PORT": str(free_port()), "FEDSSL_PROXY_IMAGE": proxy, "COMPOSE_PROFILES": ""}
    files = (kits / "coordinator/docker-compose.yml", named)
    made = Deployed(
        Project(f"{mark}c", files, {**own, **place}),
        {
            name: Project(
                f"{mark}{name}",
                (path / "docker-compose.yml", outside),
                {**own, "COMPOSE_PROFILES": "cpu", "FEDSSL_DATA": str(path)},
            )
            for name, path in ((n, kits / "sites" / n) for n in ("north", "west"))
        },
    )
    try:
        made.coordinator.compose("up", "-d")
        made.coordinator.wait_healthy("superlink", "serverapp", "proxy")
        for site in made.sites.values():
            site.compose("up", "-d")
        yield made
    finally:
        for project in (*made.sites.values(), made.coordinator):
            project.down()


def default_proxy_image() -> str:
    lines = (ROOT / "deploy/.env.example").read_text().splitlines()
    return next(
        v for k, _, v in (line.partition("=") for line in lines) if k.endswith("PROXY_IMAGE")
    )


def available(image: str) -> bool:
    for command in (["image", "inspect", image], ["pull", image]):
        done = subprocess.run(["docker", *command], capture_output=True, check=False)
        if done.returncode == 0:
            return True
    return False


def build_image(user: int) -> None:
    environment = {"FEDSSL_IMAGE": IMAGE, "FEDSSL_UID": str(user)}
    Project("fedssltest", (ROOT / "docker-compose.yml",), environment).compose(
        *("build", "superlink"), timeout=1100
    )


def test_a_run_through_the_proxy_completes(deployed: Deployed) -> None:
    log = deployed.coordinator.compose("run", "--rm", "run", timeout=700)
    assert "registered north" in log
    runs = deployed.coordinator.files[0].parent / "runs"
    results = json.loads((runs / "first/results.json").read_text())
    assert (results["engine"], sorted(results["sites"])) == ("deployment", ["north", "west"])


def test_a_site_is_refused_on_control_and_runtime_paths(deployed: Deployed) -> None:
    site = deployed.sites["west"]
    assert site.execute("site", "python", "-c", ASK).split() == ["403"] * 5


def test_a_site_cannot_reach_the_superlink_itself(deployed: Deployed) -> None:
    site = deployed.sites["west"]
    site.execute("site", "python", "-c", REACH.format(host=HOST, port=8443))
    addresses = deployed.coordinator.inspect("superlink")["NetworkSettings"]["Networks"]
    for host in ("superlink", *(network["IPAddress"] for network in addresses.values())):
        with pytest.raises(AssertionError, match=r"gaierror|TimeoutError|OSError|refused"):
            site.execute("site", "python", "-c", REACH.format(host=host, port=8000))


def test_only_the_proxy_publishes_a_port(deployed: Deployed) -> None:
    def published(project: Project, service: str) -> dict[str, object]:
        ports = project.inspect(service)["HostConfig"]["PortBindings"] or {}
        return {port: binding for port, binding in ports.items() if binding}

    assert list(published(deployed.coordinator, "proxy")) == ["8443/tcp"]
    for service in ("superlink", "serverapp"):
        assert not published(deployed.coordinator, service)
    assert not published(deployed.sites["north"], "site")


def test_the_site_is_healthy_and_its_doctor_finds_nothing_wrong(deployed: Deployed) -> None:
    site = deployed.sites["north"]
    site.wait_healthy("site")
    command = ("fedssl-client", "doctor", "/site/site.toml", "--json")
    found = json.loads(site.compose("run", "--rm", "--no-deps", "site", *command))
    assert found["ok"], found


def test_taking_everything_down_leaves_nothing(deployed: Deployed) -> None:
    for project in (*deployed.sites.values(), deployed.coordinator):
        project.down()
        assert project.containers() == []
        label = f"label=com.docker.compose.project={project.name}"
        assert docker("volume", "ls", "-q", "--filter", label) == ""
