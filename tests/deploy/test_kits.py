"""What a hospital is handed: complete, readable by our own programs, and holding no other's key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from typer.testing import CliRunner

from fedssl.cli import app
from fedssl.deploy.keyring import extend_keyring
from fedssl.deploy.kit import template, write_kits
from fedssl.deploy.nodes import read_registration
from fedssl.deploy.site_file import load_node
from fedssl.deploy.spec import load_deploy_spec, spec_from_options
from fedssl.errors import ConfigError, DataError
from fedssl.federation import load_site_file
from fedssl.types import Role

ROOT = Path(__file__).resolve().parents[2]
SPEC = """
[coordinator]
host = "fl.example.org"
port = 8443
image = "fedssl:test"
[task]
name = "vessels"
classes = ["background", "vessel"]
channels = 3
[[site]]
name = "north"
role = "labeled"
path = "/srv/images"
spacing = [0.5, 0.5]
[[site]]
name = "south"
role = "mixed"
labeled = 4
[[site]]
name = "west"
role = "unlabeled"
layout = "synthetic"
[site.options]
kind = "fundus"
look = 2
"""


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits")
    (folder / "deploy.toml").write_text(SPEC)
    write_kits(load_deploy_spec(folder / "deploy.toml"), folder / "out")
    return folder / "out"


def test_a_site_file_is_read_back_by_the_library_and_by_the_client(kits: Path) -> None:
    task, north = load_site_file(kits / "sites/north/site.toml")
    assert (task.name, task.classes, task.channels) == ("vessels", ("background", "vessel"), 3)
    assert (north.name, north.role, north.path) == ("north", Role.LABELED, "/data")
    assert north.spacing == (0.5, 0.5)
    assert load_site_file(kits / "sites/south/site.toml")[1].labeled == 4
    west = load_site_file(kits / "sites/west/site.toml")[1]
    assert (west.layout, west.path) == ("synthetic", "")
    assert west.options == {"kind": "fundus", "look": 2}
    node = load_node(kits / "sites/north/site.toml")
    assert (node.host, node.coordinator_port, node.state_dir) == ("fl.example.org", 8443, "/state")
    assert node.accept_code == "installed"
    assert Path(node.key) == kits / "sites/north/keys/node.key"


def test_every_key_is_in_one_kit_only(kits: Path) -> None:
    private = {
        site: (kits / "sites" / site / "keys/node.key").read_bytes()
        for site in ("north", "south", "west")
    }
    assert len(set(private.values())) == 3
    for path in kits.rglob("*"):
        if path.is_file() and path.name != "node.key":
            assert path.read_bytes() not in private.values(), path
    assert stat.S_IMODE((kits / "sites/north/keys/node.key").stat().st_mode) == 0o600
    assert list(kits.rglob("ca.key")) == [kits / "authority/ca.key"]


def test_the_registration_list_holds_the_keys_that_the_sites_have(kits: Path) -> None:
    nodes = read_registration(kits / "coordinator/keys/nodes.csv")
    assert [n.site for n in nodes] == ["north", "south", "west"]
    for node in nodes:
        private = load_ssh_private_key(
            (kits / "sites" / node.site / "keys/node.key").read_bytes(), password=None
        )
        line = (kits / "sites" / node.site / "keys/node.pub").read_text()
        assert line == node.public_key.read_text()
        assert line.split()[1] == openssh(private.public_key())


def openssh(key: object) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)  # type: ignore[attr-defined]  # an EC key, as other tests show
    return str(text.decode().split()[1])


def test_the_environment_files_name_every_variable_of_their_compose_file(kits: Path) -> None:
    for folder in (kits / "coordinator", kits / "sites/north"):
        text = (folder / "docker-compose.yml").read_text()
        wanted = {part.split(":-")[0] for part in text.split("${")[1:]}
        given = dict(
            line.split("=", 1)
            for line in (folder / ".env").read_text().splitlines()
            if line and not line.startswith("#")
        )
        assert wanted <= set(given), wanted - set(given)
        assert given["FEDSSL_IMAGE"] == "fedssl:test"
    assert "FEDSSL_DATA=/srv/images\n" in (kits / "sites/north/.env").read_text()


def test_each_readme_has_five_steps_and_no_open_placeholder(kits: Path) -> None:
    for path in kits.rglob("README.md"):
        lines = path.read_text().splitlines()
        assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
        assert "{" not in path.read_text()
        assert "fl.example.org:8443" in path.read_text()


@pytest.mark.parametrize("name", ["coordinator.yml", "site.yml"])
def test_services_are_confined(name: str) -> None:
    services = yaml.safe_load(template(name))["services"]
    for service, entry in services.items():
        assert entry["cap_drop"] == ["ALL"], service
        assert entry["security_opt"] == ["no-new-privileges:true"], service
        assert entry["read_only"] is True, service
        assert not entry.get("privileged"), service
        inputs = [v for v in entry["volumes"] if ":/keys" in v or ":/data" in v or ":/site" in v]
        assert all(v.endswith(":ro") for v in inputs), service
    assert all(s["restart"] == "unless-stopped" for n, s in services.items() if n != "run")


def test_only_the_proxy_of_the_coordinator_publishes_a_port() -> None:
    coordinator = yaml.safe_load(template("coordinator.yml"))
    services = {**coordinator["services"], **yaml.safe_load(template("site.yml"))["services"]}
    assert [name for name, entry in services.items() if entry.get("ports")] == ["proxy"]
    assert coordinator["networks"]["control"] == {"internal": True}
    reach = {n: s["networks"] for n, s in coordinator["services"].items()}
    assert [n for n, networks in reach.items() if "outside" in networks] == ["proxy"]


@pytest.mark.parametrize(
    ("ours", "packaged"),
    [
        ("coordinator.yml", "coordinator.yml"),
        ("site.yml", "site.yml"),
        (".env.example", "env.example"),
        ("proxy/nginx.conf", "nginx.conf"),
    ],
)
def test_the_repository_shows_the_files_that_the_package_hands_out(
    ours: str, packaged: str
) -> None:
    assert (ROOT / "deploy" / ours).read_text() == template(packaged)


def test_a_folder_with_files_is_left_alone(kits: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    spec = spec_from_options("h", 443, "a,b", ["n=labeled"], mode="2d", channels=1)
    with pytest.raises(DataError, match="is not empty"):
        write_kits(spec, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_a_public_key_that_a_hospital_sent_gives_a_kit_without_a_private_key(
    tmp_path: Path,
) -> None:
    extend_keyring(tmp_path / "hospital", hosts=[], sites=["north"])
    extend_keyring(tmp_path / "keys", hosts=["h"], sites=["west"])
    sent = tmp_path / "keys/nodes/north.pub"
    sent.write_bytes((tmp_path / "hospital/nodes/north.pub").read_bytes())
    sites = ["north=labeled", "west=unlabeled"]
    spec = spec_from_options("h", 443, "a,b", sites, mode="2d", channels=1)
    kits = write_kits(spec, tmp_path / "kits", tmp_path / "keys")
    assert not (kits.sites["north"] / "keys/node.key").exists()
    assert (kits.sites["north"] / "keys/node.pub").read_bytes() == sent.read_bytes()
    assert (kits.sites["west"] / "keys/node.key").is_file()


def test_keys_for_another_host_make_no_kit(tmp_path: Path) -> None:
    extend_keyring(tmp_path / "keys", hosts=["old.example.org"], sites=["north"])
    spec = spec_from_options("new.example.org", 443, "a,b", ["n=labeled"], mode="2d", channels=1)
    with pytest.raises(DataError, match=r"is for old\.example\.org.*not for 'new\.example\.org'"):
        write_kits(spec, tmp_path / "kits", tmp_path / "keys")
    assert not (tmp_path / "keys/nodes/n").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("port = 8443", "port = 0"), "coordinator.port"),
        (('host = "fl.example.org"', 'host = "a b"'), "coordinator.host"),
        (('host = "fl.example.org"', 'host = "h:443"'), "without a port"),
        (('name = "south"', 'name = "north"'), "'north' stands twice"),
        (("[coordinator]", "[coordinatr]"), "Did you mean 'coordinator'"),
        (('role = "mixed"', 'role = "half"'), "role"),
    ],
)
def test_a_wrong_deployment_file_is_named(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "d.toml").write_text(SPEC.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_deploy_spec(tmp_path / "d.toml")


def test_the_command_writes_kits_from_options(tmp_path: Path) -> None:
    options = ["--host", "fl.example.org", "--site", "north=labeled", "--site", "west=unlabeled"]
    done = CliRunner().invoke(app, ["deploy", *options, "--out", str(tmp_path / "k"), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(json.loads(done.stdout)["sites"]) == ["north", "west"]
    wrong = CliRunner().invoke(app, ["deploy", "--host", "h", "--site", "north", "--out", "x"])
    assert wrong.exit_code == 1
    assert "NAME=ROLE" in wrong.stderr
    nobody = CliRunner().invoke(app, ["deploy", "--host", "h", "--out", "x"])
    assert nobody.exit_code == 1
    assert "--site NAME=ROLE once for each" in " ".join(nobody.stderr.split())
