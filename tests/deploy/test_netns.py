"""A federation over a bad network: coordinator, proxy and two sites on hosts of their own.

30 ms on each way, 1 % loss and 20 Mbit/s on every link, and one site cut off for 20 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hosts
import pytest
from hosts import Host, segment
from nodes import ROOT, TINY, Joined, joined, site_file, wait_until
from proxies import NGINX, Coordinator, serving

from fedssl.deploy.keyring import extend_keyring
from fedssl.results import config_toml

pytestmark = [pytest.mark.netns, pytest.mark.timeout(2400)]

PORT = 8443
SUPERLINK = 8000
RECORDER = Path(__file__).parent / "recorder"
EXPERIMENT = {
    **TINY,
    "method": "denoise",
    "rounds": 2,
    "model.width": 16,
    "model.depth": 3,
    "denoise.warmup-rounds": 1,
    "denoise.passes": 2,
    "min-unlabeled": 1,
}
CONNECT = """
import socket, sys, time
begun = time.perf_counter()
socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
print(time.perf_counter() - begun)
"""
ASK = """
import http.client, ssl, sys
host, port, ca, path = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
connection.request("POST", path, body=b"", headers={"Content-Type": "application/protobuf"})
print(connection.getresponse().status)
"""


@dataclass(frozen=True)
class Network:
    """Three hosts, a coordinator on the first, and who has joined from the others."""

    coordinator: Coordinator
    center: Host
    north: Host
    south: Host
    sites: dict[str, Joined]
    record: Path

    def ask(
        self, host: Host, address: str, port: int, path: str
    ) -> subprocess.CompletedProcess[str]:
        """Send one request from a host."""
        command = (sys.executable, "-c", ASK, address, str(port), self.coordinator.ca, path)
        return host.run(*command)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if reason := hosts.reason_to_skip() or ("" if NGINX else "nginx is not installed"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("netns")
    record = folder / "record"
    record.mkdir()
    with segment(["center", "north", "south"]) as (center, north, south):
        keys = folder / "keys"
        extend_keyring(keys, hosts=[center.address], sites=["north", "south"])
        coordinator = Coordinator(folder, keys, SUPERLINK, PORT, center.address, center.prefix)
        watched = {
            "FEDSSL_TEST_RECORD": str(record),
            "PYTHONPATH": f"{RECORDER}:{ROOT}",
        }
        for host in (center, north, south):
            host.delay, host.loss, host.rate = 0.030, 0.01, 20e6 / 8
        with serving(coordinator, watched):
            files = {
                name: site_file(
                    *(folder, f"{center.address}:{PORT}"),
                    name=name,
                    role=role,
                    look=look,
                    ca=coordinator.ca,
                    key=str(keys / "nodes" / name),
                )
                for name, role, look in (("north", "labeled", 0), ("south", "unlabeled", 1))
            }
            with (
                joined(files["north"], watched, *north.prefix) as first,
                joined(files["south"], watched, *south.prefix) as second,
            ):
                sites = {"north": first, "south": second}
                yield Network(coordinator, center, north, south, sites, record)


def test_the_network_is_as_bad_as_it_should_be(network: Network) -> None:
    wait_until(lambda: network.ask(network.center, *direct(network)).returncode == 0)
    address = (network.center.address, str(PORT))
    took = []
    for _ in range(5):
        done = network.north.run(sys.executable, "-c", CONNECT, *address)
        assert done.returncode == 0, done.stderr
        took.append(float(done.stdout))
    # One round trip passes two links: 30 ms on the way out of each host.
    assert min(took) >= 0.060


def direct(network: Network) -> tuple[str, int, str]:
    """Return where the coordinator itself reaches its SuperLink's control."""
    return "127.0.0.1", SUPERLINK, "/v1/control/list-runs"


def test_a_site_reaches_neither_control_nor_the_superlink(network: Network) -> None:
    wait_until(lambda: network.ask(network.center, *direct(network)).returncode == 0)
    assert network.ask(network.center, *direct(network)).stdout.strip() == "200"
    for path in ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/push-messages"):
        done = network.ask(network.south, network.center.address, PORT, path)
        assert done.stdout.strip() == "403", done.stderr
    address = (network.center.address, str(SUPERLINK))
    done = network.south.run(sys.executable, "-c", CONNECT, *address)
    assert "ConnectionRefusedError" in done.stderr


def test_a_run_completes_though_a_site_is_cut_off_for_a_while(
    network: Network, tmp_path: Path
) -> None:
    experiment, out = tmp_path / "experiment.toml", tmp_path / "run"
    experiment.write_text(config_toml(EXPERIMENT))
    keys = network.coordinator.keys
    log = tmp_path / "submit.log"
    with log.open("wb") as output:
        run = subprocess.Popen(
            [
                *[*network.center.prefix, sys.executable, "-m", "fedssl.cli", "submit"],
                *["--superlink", f"127.0.0.1:{SUPERLINK}"],
                *["--root-certificates", network.coordinator.ca],
                *["--nodes", str(keys / "nodes.csv")],
                *["--config", str(experiment), "--out", str(out)],
            ],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        rounds = out / "rounds.jsonl"
        wait_until(lambda: (rounds.exists() and rounds.read_text()) or run.poll() is not None, 900)
        assert run.poll() is None, log.read_text()
        network.south.up = False
        time.sleep(20)
        network.south.up = True
        assert len(rounds.read_text().splitlines()) < EXPERIMENT["rounds"]
        assert run.wait(900) == 0, log.read_text()
    finally:
        run.kill()
        run.wait(30)
    lines = rounds.read_text().splitlines()
    sites = [sorted(json.loads(line)["sites"]) for line in lines]
    # The first round is a warm-up of the labeled site; the cut came in the second.
    assert sites == [["north"], ["north", "south"]]
    assert json.loads((out / "results.json").read_text())["engine"] == "deployment"


def test_what_was_received_is_what_was_sent(network: Network) -> None:
    sent_and_received: dict[str, Counter[tuple[int, str, str]]] = {}
    size = 0
    for file in network.record.glob("*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            what = (line["node"], line["message"], line["sha256"])
            sent_and_received.setdefault(line["way"], Counter())[what] += 1
            size += line["bytes"]
    down, up = sent_and_received["down, sent"], sent_and_received["up, sent"]
    assert sent_and_received["down, received"] == down
    assert sent_and_received["up, received"] == up
    # Two sites described themselves, trained once and twice, and evaluated.
    assert sum(down.values()) == sum(up.values()) >= 2 + 1 + 2 + 2
    assert set(down.values()) == set(up.values()) == {1}
    assert size > 5 * 2**20
    # The network really lost frames, and all that arrived came through it.
    for host in (network.north, network.south):
        assert host.lost > 0.005 * host.passed > 1
