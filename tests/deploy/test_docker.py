"""The image, and docker-compose.yml with three sites: trained, killed, restarted, taken down."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import (
    IMAGE,
    STRANGER,
    Project,
    checked,
    compose_command,
    container_user,
    docker,
    give,
    reason_to_skip,
    run_once,
)
from nodes import ROOT, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

SITES = ("north", "south", "west")
DEMO = ROOT / "deploy/demo"
SIMULATE = (
    *(IMAGE, "fedssl", "simulate", "--federation=/demo/federation.toml"),
    "--config=/demo/experiment.toml",
)


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """docker-compose.yml under names of its own, with the image built."""
    folder, user = tmp_path_factory.mktemp("compose"), container_user()
    for name in ("keys", "runs"):
        (folder / name).mkdir()
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    text = (ROOT / "deploy/demo/experiment.toml").read_text()
    for name, rounds in (("faulty", 4), ("restarted", 3)):
        changed = text.replace("rounds = 3", f"rounds = {rounds}", 1)
        changed = changed.replace("min-unlabeled = 2", "min-unlabeled = 1")
        changed = changed.replace("round-timeout = 300.0", "round-timeout = 240.0")
        (folder / f"{name}.toml").write_text(changed)
    give(folder, user)
    environment = {
        "FEDSSL_IMAGE": IMAGE,
        "FEDSSL_UID": str(user),
        "FEDSSL_GID": str(user),
        "FEDSSL_KEYS": str(folder / "keys"),
        "FEDSSL_RUNS": str(folder / "runs"),
        "COMPOSE_PROFILES": "cpu",
    }
    name = f"fedssltest{secrets.token_hex(4)}"
    made = Project(name, (ROOT / "docker-compose.yml",), environment)
    made.compose("build", "superlink", timeout=1100)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def federation(project: Project) -> Project:
    """The project, up, with keys; the first run registers the sites."""
    project.compose("run", "--rm", "keys")
    project.compose("up", "-d")
    project.wait_healthy("superlink", "serverapp")
    return project


def runs(project: Project) -> Path:
    return Path(project.environment["FEDSSL_RUNS"])


def with_experiment(project: Project, name: str) -> Project:
    """Return the project with another experiment file and a run folder of that name."""
    file = runs(project).parent / f"{name}.toml"
    change = {"FEDSSL_EXPERIMENT": str(file), "FEDSSL_RUN": name}
    return Project(project.name, project.files, {**project.environment, **change})


def trained(project: Project, run: str) -> list[list[str]]:
    """Return which sites trained, by finished round."""
    file = runs(project) / run / "rounds.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [sorted(json.loads(line)["sites"]) for line in lines]


def results(project: Project, run: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((runs(project) / run / "results.json").read_text())
    return found


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "file", ["docker-compose.yml", "deploy/coordinator.yml", "deploy/site.yml"]
)
def test_the_compose_files_are_valid(file: str, profile: str) -> None:
    command = [*compose_command(), "-f", file, "config"]
    checked(command, 60, {"COMPOSE_PROFILES": profile})


def test_the_image_is_not_roots_and_fetches_and_reports_nothing(project: Project) -> None:
    config = json.loads(docker("image", "inspect", IMAGE))[0]["Config"]
    assert int(config["User"].partition(":")[0]) > 0
    for switch in ("TELEMETRY_ENABLED=0", "DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1"):
        assert f"FLWR_{switch}" in config["Env"]
    assert "RAY_USAGE_STATS_ENABLED=0" in config["Env"]


@pytest.mark.parametrize("user", [10001, STRANGER])
def test_the_image_works_for_any_user_without_network_and_privileges(
    project: Project, user: int
) -> None:
    run_once(user, "-v", f"{DEMO}:/demo:ro", *SIMULATE, "--rounds=2", "--out=/tmp/run")


def test_services_are_confined_and_no_port_is_published(federation: Project) -> None:
    user = federation.environment["FEDSSL_UID"]
    for service in ("superlink", "serverapp", *SITES):
        found = federation.inspect(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] == f"{user}:{user}"
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["ReadonlyRootfs"]
        assert not host["Privileged"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert not any(host["PortBindings"].values())
        writable = {m["Destination"] for m in found["Mounts"] if m["RW"]}
        assert writable <= {"/state", "/runs"}
        assert "/data" in {m["Destination"] for m in found["Mounts"]} or service not in SITES


def test_an_undisturbed_run_gives_the_weights_of_a_simulation(federation: Project) -> None:
    federation.compose("run", "--rm", "run", timeout=700)
    federation.wait_healthy(*SITES)
    mounts = ("-v", f"{DEMO}:/demo:ro", "-v", f"{runs(federation)}:/runs")
    user = int(federation.environment["FEDSSL_UID"])
    run_once(user, *mounts, *SIMULATE, "--out=/runs/simulated")
    deployed, simulated = results(federation, "demo"), results(federation, "simulated")
    assert (deployed["engine"], simulated["engine"]) == ("deployment", "loopback")
    assert deployed["rounds"] == 3
    assert deployed["weights_sha256"] == simulated["weights_sha256"]
    # The first round is a warm-up of the labeled site.
    assert trained(federation, "demo") == [["north"], [*SITES], [*SITES]]


def test_a_run_completes_though_an_unlabeled_site_is_killed(
    federation: Project, tmp_path: Path
) -> None:
    faulty = with_experiment(federation, "faulty")
    log = tmp_path / "run.log"
    run = faulty.start(log, "run", "--rm", "run")
    try:
        wait_until(lambda: len(trained(faulty, "faulty")) >= 2 or run.poll() is not None, 300)
        assert run.poll() is None, log.read_text()
        faulty.kill("west")
        assert run.wait(900) == 0, log.read_text()
    finally:
        run.kill()
        run.wait(30)
    sites = trained(faulty, "faulty")
    assert len(sites) == 4
    assert (sites[1], sites[-1]) == ([*SITES], ["north", "south"])
    assert not faulty.inspect("west")["State"]["Running"]


def test_the_run_goes_on_and_sites_come_back_after_a_crash_of_the_superlink(
    federation: Project, tmp_path: Path
) -> None:
    restarted = with_experiment(federation, "restarted")
    restarted.compose("up", "-d")
    restarted.wait_healthy("superlink", *SITES)
    log = tmp_path / "run.log"
    run = restarted.start(log, "run", "--rm", "run")
    try:
        wait_until(lambda: len(trained(restarted, "restarted")) >= 1 or run.poll() is not None, 300)
        assert run.poll() is None, log.read_text()
        begun = restarted.inspect("superlink")["State"]["StartedAt"]
        restarted.crash("superlink")
        wait_until(lambda: restarted.inspect("superlink")["State"]["StartedAt"] != begun, 60)
        restarted.wait_healthy("superlink")
        assert run.wait(900) == 0, log.read_text() + restarted.log("serverapp")
    finally:
        run.kill()
        run.wait(30)
    sites = trained(restarted, "restarted")
    assert (len(sites), sites[-1]) == (3, [*SITES])


def test_taking_it_down_leaves_nothing(federation: Project) -> None:
    begun = time.monotonic()
    federation.down()
    assert time.monotonic() - begun < 120
    assert federation.containers() == []
    for kind in ("network", "volume"):
        label = f"label=com.docker.compose.project={federation.name}"
        assert docker(kind, "ls", "-q", "--filter", label) == ""
    assert (runs(federation) / "demo/results.json").is_file()  # results are the user's
