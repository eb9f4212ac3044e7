"""Keys and certificates work with the programs that use them, and are nobody else's to read."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from typer.testing import CliRunner

from fedssl.cli import app
from fedssl.deploy.keyring import extend_keyring, open_keyring
from fedssl.deploy.nodes import read_registration
from fedssl.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ring") / "keys"
    extend_keyring(folder, hosts=["fl.example.org", "192.0.2.7"], sites=["north", "west"])
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_readable_by_their_owner_only(ring: Path) -> None:
    private = ["authority/ca.key", "server/server.key", "server/superexec.secret"]
    private += ["nodes/north", "nodes/west"]
    assert {mode(ring / name) for name in private} == {0o600}
    assert mode(ring) == 0o700
    listed = {str(p.relative_to(ring)) for p in ring.rglob("*") if p.is_file()}
    public = {"authority/ca.crt", "server/server.pem", "nodes.csv"}
    assert listed == {*private, *public, "nodes/north.pub", "nodes/west.pub"}


def test_node_keys_are_what_a_supernode_loads(ring: Path) -> None:
    private = load_ssh_private_key((ring / "nodes/north").read_bytes(), password=None)
    public = load_ssh_public_key((ring / "nodes/north.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.curve.name == "secp384r1"
    assert private.public_key().public_numbers() == public.public_numbers()


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("fl.example.org", True),
        ("192.0.2.7", True),
        ("localhost", True),
        ("127.0.0.1", True),
        ("superlink", True),
        ("proxy", True),
        ("evil.example.org", False),
    ],
)
def test_a_tls_client_trusts_exactly_the_named_hosts(ring: Path, name: str, trusted: bool) -> None:
    assert handshakes(ring, ring / "authority/ca.crt", name) is trusted


def test_a_tls_client_with_another_root_does_not_trust_the_server(
    ring: Path, tmp_path: Path
) -> None:
    extend_keyring(tmp_path / "other", hosts=["fl.example.org"], sites=[])
    assert handshakes(ring, tmp_path / "other/authority/ca.crt", "fl.example.org") is False


def handshakes(ring: Path, root: Path, name: str) -> bool:
    """Whether a verifying client completes a TLS handshake with a server that has the keys."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(ring / "server/server.pem", ring / "server/server.key")
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_serve, args=(server, theirs))
    thread.start()
    try:
        client = ssl.create_default_context(cafile=root)
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        with client.wrap_socket(ours, server_hostname=name):
            return True
    except ssl.SSLCertVerificationError:
        return False
    finally:
        ours.close()
        thread.join(10)


def _serve(context: ssl.SSLContext, plain: socket.socket) -> None:
    try:
        with context.wrap_socket(plain, server_side=True):
            pass
    except (ssl.SSLError, OSError):
        plain.close()


def test_nothing_is_overwritten(ring: Path) -> None:
    before = {p: p.read_bytes() for p in ring.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"server\.key exists already"):
        extend_keyring(ring, hosts=["fl.example.org"], sites=[])
    with pytest.raises(DataError, match="north exists already"):
        extend_keyring(ring, hosts=[], sites=["north"])
    assert before == {p: p.read_bytes() for p in ring.rglob("*") if p.is_file()}


def test_nothing_is_made_where_one_of_the_names_is_taken(tmp_path: Path) -> None:
    extend_keyring(tmp_path / "k", hosts=[], sites=["west"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="west exists already"):
        extend_keyring(tmp_path / "k", hosts=["h"], sites=["east", "west"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("host", ["https://fl.example.org", "a b", "h:443", "bücher.example", "-h"])
def test_what_is_no_host_name_gets_no_certificate(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="no host name or address"):
        extend_keyring(tmp_path / "k", hosts=[host], sites=[])
    assert not (tmp_path / "k").exists()


def test_a_site_that_comes_later_joins_the_registration_list(tmp_path: Path) -> None:
    extend_keyring(tmp_path / "k", hosts=[], sites=["west"])
    extend_keyring(tmp_path / "k", hosts=[], sites=["east"])
    nodes = read_registration(tmp_path / "k/nodes.csv")
    assert [n.site for n in nodes] == ["east", "west"]
    assert sorted(open_keyring(tmp_path / "k").nodes) == ["east", "west"]


def test_a_registration_list_with_one_key_for_two_sites_is_refused(tmp_path: Path) -> None:
    extend_keyring(tmp_path / "k", hosts=[], sites=["west"])
    (tmp_path / "k/nodes.csv").write_text("site,key\nwest,nodes/west.pub\neast,nodes/west.pub\n")
    with pytest.raises(DataError, match=r"lists the key .* twice"):
        read_registration(tmp_path / "k/nodes.csv")


def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no site name"):
        extend_keyring(tmp_path / "k", hosts=[], sites=["../west"])
    assert not (tmp_path / "west").exists()


def test_the_command_reports_what_it_wrote_and_fails_with_status_1(tmp_path: Path) -> None:
    arguments = ["keys", "--out", str(tmp_path / "k"), "--site", "west", "--json"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0
    written = json.loads(first.stdout)["written"]
    assert [Path(p).name for p in written] == ["west", "west.pub"]
    second = CliRunner().invoke(app, arguments)
    assert second.exit_code == 1
    assert "exists already" in second.stderr
    assert CliRunner().invoke(app, ["keys", "--out", str(tmp_path / "n")]).exit_code == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--superlink", "fl.example.org"], "takes host:port"),
        (["--root-certificates", "nowhere.crt"], "nowhere.crt is no file"),
    ],
)
def test_submit_names_an_address_or_authority_that_cannot_be(
    tmp_path: Path, options: list[str], message: str
) -> None:
    done = CliRunner().invoke(app, ["submit", "--out", str(tmp_path), *options])
    assert (done.exit_code, message in done.stderr) == (1, True)
