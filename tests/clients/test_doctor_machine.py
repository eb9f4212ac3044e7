"""The doctor finds what is wrong at the site's own machine, and says what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from coordinators import coordinator
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from clients.cli import app
from clients.doctor import machine
from clients.doctor.finding import Finding, Level
from fedssl.cli.processes import free_port
from fedssl.deploy.nodes import create_node_key
from fedssl.deploy.site_file import NodeSpec, load_node
from fedssl.deploy.versions import VERSIONS, this_machine
from fedssl.federation import load_site_file

GIB = 2**30


def node(**fields: object) -> NodeSpec:
    return NodeSpec(coordinator="localhost:443", **fields)  # type: ignore[arg-type]  # fields of several types


def told(finding: Finding, level: str, detail: str, remedy: str = "") -> None:
    assert finding.level.value == level, finding
    assert detail in finding.detail
    assert remedy in finding.remedy
    assert bool(finding.remedy) == (finding.level in (Level.FAIL, Level.WARN))


def test_the_node_key_is_an_unencrypted_ec_key_that_nobody_else_reads(tmp_path: Path) -> None:
    told(machine.check_key(node()), "warn", "none", "fedssl keys")
    key = tmp_path / "north"
    told(machine.check_key(node(key=str(key))), "fail", "cannot be read", "correct 'key'")
    create_node_key(tmp_path, "north")
    told(machine.check_key(node(key=str(key))), "ok", "secp384r1")
    key.chmod(0o644)
    told(machine.check_key(node(key=str(key))), "warn", "mode 644", f"chmod 600 {key}")


@pytest.mark.parametrize("kind", ["rsa", "pem", "text"])
def test_another_key_is_refused_with_the_command_that_makes_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if kind == "rsa":
        made = rsa.generate_private_key(65537, 2048)
        content = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    elif kind == "pem":
        curve = ec.generate_private_key(ec.SECP384R1())
        content = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    else:
        content = b"no key"
    path.write_bytes(content)
    path.chmod(0o600)
    told(machine.check_key(node(key=str(path))), "fail", "is no", "fedssl keys --site NAME")


def test_the_code_that_is_run_is_named() -> None:
    told(machine.check_code_policy(node()), "ok", "only the code that is installed here")
    told(machine.check_code_policy(node(accept_code="any")), "warn", "any code", '"installed"')
    told(machine.check_code_policy(node(accept_code=("0" * 64,))), "ok", "1 bundle(s)")


def test_the_folder_of_images_has_to_be_there(hospital: Path) -> None:
    _, spec = load_site_file(hospital / "site.toml")
    told(machine.check_data(spec), "ok", "can be read")
    gone = spec.model_copy(update={"path": str(hospital / "gone")})
    told(machine.check_data(gone), "fail", "is no folder", "'path' in [[site]]")


def test_the_disk_has_room_for_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = node(state_dir=str(tmp_path / "new/state"))
    monkeypatch.setattr(machine, "DISK", (0, 0))
    told(machine.check_disk(here), "ok", f"free at {tmp_path}")
    monkeypatch.setattr(machine, "DISK", (0, 2**62))
    told(machine.check_disk(here), "warn", "free at", "move 'state-dir'")
    monkeypatch.setattr(machine, "DISK", (2**62, 2**62))
    told(machine.check_disk(here), "fail", "free at", "move 'state-dir'")


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = machine.check_disk(node(state_dir=str(tmp_path / "file/state")))
    told(finding, "fail", "cannot be written", "belongs to the user who runs this")


@pytest.mark.parametrize(
    ("kib", "level"), [(8 * GIB // 1024, "ok"), (2 * GIB // 1024, "warn"), (1000, "fail")]
)
def test_the_memory_that_is_left_is_measured(kib: int, level: str, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {kib} kB\n")
    remedy = "" if level == "ok" else "batch-size"
    told(machine.check_memory(tmp_path / "meminfo"), level, "GiB available", remedy)


def test_a_system_without_meminfo_is_skipped(tmp_path: Path) -> None:
    told(machine.check_memory(tmp_path / "none"), "skip", "does not tell")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that torch can use")
def test_a_gpu_that_torch_cannot_use_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    told(machine.check_gpu(), "warn", f"torch {torch.__version__} cannot use it", "CUDA build")


def test_the_local_port_is_free_or_this_very_node_s() -> None:
    told(machine.check_port(node(port=free_port())), "ok", "is free")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told(machine.check_port(node(port=port)), "fail", "another program", "another 'port'")
    with coordinator() as port:  # answers /health, as a node does
        told(machine.check_port(node(port=port)), "ok", "a node runs here already")


@pytest.mark.parametrize(
    ("change", "level", "detail", "remedy"),
    [
        ({}, "ok", "as at the coordinator", ""),
        ({"torch": "0.1"}, "warn", "coordinator 0.1", "last digits"),
        ({"fedssl": "9.9"}, "fail", "coordinator 9.9", "Install the coordinator's version"),
        ({"code": "abc"}, "fail", "coordinator abc", "Install the coordinator's version"),
    ],
)
def test_versions_are_compared_with_the_kit(
    change: dict[str, str], level: str, detail: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / VERSIONS).write_text(json.dumps({**this_machine(), **change}))
    told(machine.check_versions(tmp_path / "site.toml"), level, detail, remedy)


def test_a_kit_without_versions_is_skipped_and_a_broken_one_is_named(tmp_path: Path) -> None:
    told(machine.check_versions(tmp_path / "site.toml"), "skip", f"no {VERSIONS}")
    (tmp_path / VERSIONS).write_text("{")
    told(machine.check_versions(tmp_path / "site.toml"), "fail", "cannot be read", "kit again")


# --- the command ---------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.output


def test_the_command_ends_with_1_and_names_what_failed(hospital: Path) -> None:
    port = free_port()
    text = (hospital / "site.toml").read_text()
    (hospital / "site.toml").write_text(text.replace("localhost:8443", f"localhost:{port}"))
    status, output = run("doctor", hospital / "site.toml", "--json")
    answer = json.loads(output)
    assert (status, answer["ok"]) == (1, False)
    failed = [f for f in answer["findings"] if f["level"] == "fail"]
    assert [f["check"] for f in failed] == ["tcp"]
    assert str(port) in failed[0]["remedy"]
    status, output = run("doctor", hospital / "site.toml")
    assert status == 1
    assert "Not ready: tcp." in output
    assert "-> Ask your network administrators" in output


def test_the_command_ends_with_0_when_nothing_is_in_the_way(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "DISK", (0, 0))
    monkeypatch.setattr(machine, "MEMORY", (0, 0))
    with coordinator() as port:
        text = (hospital / "site.toml").read_text()
        text = text.replace("localhost:8443", f"localhost:{port}")
        text = text.replace("port = 9094", f"port = {free_port()}")
        (hospital / "site.toml").write_text(text)
        status, output = run("doctor", hospital / "site.toml", "--json")
        assert (status, json.loads(output)["ok"]) == (0, True), output
        assert "Ready to join." in run("doctor", hospital / "site.toml")[1]


@pytest.mark.parametrize("command", ["doctor", "join"])
def test_a_missing_site_file_is_one_message_and_status_1(command: str, tmp_path: Path) -> None:
    status, output = run(command, tmp_path / "none.toml", "--json")
    assert status == 1
    assert "none.toml" in json.loads(output)["error"]


# --- init and join -------------------------------------------------------------------------------


def test_init_writes_a_commented_file_that_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    keys = ["--name", "north", "--role", "labeled", "--data", "/data", "--channels", "3"]
    keys += ["--coordinator", "fl.example.org:443", "--classes", "background, disc"]
    status, output = run("init", path, *keys, "--json")
    assert (status, json.loads(output)) == (0, {"ok": True, "site_file": str(path)})
    task, spec = load_site_file(path)
    assert (spec.name, spec.role.value, spec.path) == ("north", "labeled", "/data")
    assert (task.classes, task.channels) == (("background", "disc"), 3)
    assert load_node(path).accept_code == "installed"
    comments = [line for line in path.read_text().splitlines() if "#" in line]
    assert len(comments) > 12


def test_init_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("mine")
    status, output = run("init", path)
    assert status == 1
    assert "exists already" in output
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--role", "teacher", "role"),
        ("--coordinator", "fl.example.org", "host:port"),
        ("--classes", "background", "classes"),
        ("--name", "a/b", "name"),
    ],
)
def test_init_with_a_wrong_value_writes_nothing(
    option: str, value: str, reason: str, tmp_path: Path
) -> None:
    status, output = run("init", tmp_path / "site.toml", option, value, "--json")
    assert status == 1
    assert reason in json.loads(output)["error"]
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_wrong_usage_and_status_2(tmp_path: Path) -> None:
    assert run("init", tmp_path / "site.toml", "--colour", "red")[0] == 2
    assert run("dance")[0] == 2


def test_join_prints_the_exact_commands_and_starts_nothing(hospital: Path) -> None:
    status, output = run("join", hospital / "site.toml", "--print", "--json")
    answer = json.loads(output)
    assert (status, answer["site"], answer["role"]) == (0, "west", "unlabeled")
    supernode = answer["supernode"]
    assert supernode[supernode.index("--superlink") + 1] == "localhost:8443"
    assert supernode[supernode.index("--isolation") + 1] == "process"
    assert "clients.launcher" in answer["launcher"]
    assert not (hospital / "state").exists()


def test_join_refuses_a_key_that_is_not_there(hospital: Path) -> None:
    text = (hospital / "site.toml").read_text()
    (hospital / "site.toml").write_text(text.replace('key = ""', 'key = "node.key"'))
    status, output = run("join", hospital / "site.toml", "--print", "--json")
    assert status == 1
    assert "node.key, which is no file" in json.loads(output)["error"]
