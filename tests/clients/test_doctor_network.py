"""The doctor finds what is wrong on the way to the coordinator, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinators import coordinator

import fedssl.deploy.authority
from clients.doctor.finding import Finding, Level
from clients.doctor.network import check_network
from fedssl.cli.processes import free_port
from fedssl.deploy.keyring import extend_keyring
from fedssl.deploy.site_file import NodeSpec


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine comes between."""
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    extend_keyring(folder, hosts=["localhost"], sites=[])
    return folder


def ca(keys: Path) -> str:
    return str(keys / "authority/ca.crt")


def findings(port: int, keys: Path | None, host: str = "localhost") -> dict[str, Finding]:
    node = NodeSpec(
        coordinator=f"{host}:{port}", root_certificates=ca(keys) if keys is not None else ""
    )
    found = {f.check: f for f in check_network(node)}
    for finding in found.values():
        assert bool(finding.remedy) == (finding.level in (Level.FAIL, Level.WARN)), finding
    return found


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.level.value for name, finding in found.items()}


def test_a_good_way_passes_every_check(keys: Path) -> None:
    with coordinator(keys) as port:
        found = findings(port, keys)
    assert set(levels(found).values()) == {"ok"}
    assert list(found) == [
        *("proxy", "dns", "tcp", "tls", "certificate", "coordinator", "clock", "exposure")
    ]
    assert "TLSv1.3" in found["tls"].detail


def test_a_name_without_an_address_stops_the_checks(keys: Path) -> None:
    found = findings(443, keys, host="no-such-host.invalid")
    assert found["dns"].level == Level.FAIL
    assert "name server" in found["dns"].remedy
    assert levels(found)["tcp"] == levels(found)["exposure"] == "skip"
    assert found["tcp"].detail == "because of: dns"


def test_a_closed_port_is_for_the_network_administrators(keys: Path) -> None:
    port = free_port()
    found = findings(port, keys)
    assert found["tcp"].level == Level.FAIL
    assert f"allow outgoing TCP to localhost:{port}" in found["tcp"].remedy
    assert levels(found)["tls"] == "skip"


def test_a_certificate_of_another_authority_is_not_trusted(keys: Path, tmp_path: Path) -> None:
    extend_keyring(tmp_path / "other", hosts=["localhost"], sites=[])
    with coordinator(tmp_path / "other") as port:
        found = findings(port, keys)
    assert found["tls"].level == Level.FAIL
    assert "not trusted" in found["tls"].detail
    assert "If a firewall opens TLS here" in found["tls"].remedy
    assert levels(found)["clock"] == "skip"


def test_a_certificate_for_another_name_is_not_trusted(keys: Path) -> None:
    with coordinator(keys, address="127.0.0.2") as port:
        found = findings(port, keys, host="127.0.0.2")
    assert found["tls"].level == Level.FAIL
    assert "127.0.0.2" in found["tls"].detail


def test_a_server_without_tls_is_named(keys: Path) -> None:
    with coordinator() as port:
        found = findings(port, keys)
    assert found["tls"].level == Level.FAIL
    assert "no TLS connection" in found["tls"].detail


@pytest.mark.parametrize(("days", "level", "detail"), [(12, "warn", "11 days"), (0, "fail", "")])
def test_a_certificate_that_ends_soon_or_has_ended(
    days: int, level: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedssl.deploy.authority, "SERVER_DAYS", days)
    extend_keyring(tmp_path / "keys", hosts=["localhost"], sites=[])
    with coordinator(tmp_path / "keys") as port:
        found = findings(port, tmp_path / "keys")
    if level == "warn":
        assert levels(found)["certificate"] == "warn"
        assert detail in found["certificate"].detail
        assert "fedssl keys --host" in found["certificate"].remedy
    else:
        assert levels(found)["tls"] == "fail"
        assert "expired" in found["tls"].detail


@pytest.mark.parametrize(
    ("ahead", "level", "text"),
    [
        (3600.0, "fail", "behind it"),
        (-60.0, "fail", "ahead of it"),
        (100.0, "ok", "behind it"),
        (None, "skip", "does not tell its time"),
    ],
)
def test_the_clocks_are_compared(keys: Path, ahead: float | None, level: str, text: str) -> None:
    with coordinator(keys, ahead=ahead) as port:
        clock = findings(port, keys)["clock"]
    assert clock.level.value == level
    assert text in clock.detail
    assert ("time server" in clock.remedy) == (level == "fail")


@pytest.mark.parametrize(
    ("status", "detail"),
    [(502, "its SuperLink is not (502)"), (503, "(503)"), (500, "/health answers 500")],
)
def test_a_coordinator_that_is_not_well_is_reported(keys: Path, status: int, detail: str) -> None:
    with coordinator(keys, health=status) as port:
        found = findings(port, keys)["coordinator"]
    assert found.level == Level.FAIL
    assert detail in found.detail


def test_run_control_that_answers_sites_is_a_warning(keys: Path) -> None:
    with coordinator(keys, control=200) as port:
        found = findings(port, keys)["exposure"]
    assert found.level == Level.WARN
    assert 'accept-code = "installed"' in found.remedy


def test_a_connection_without_tls_is_a_warning() -> None:
    with coordinator() as port:
        found = findings(port, None)
    assert levels(found) == {"proxy": "ok", "dns": "ok", "tcp": "ok", "tls": "warn"}


def test_a_proxy_is_named_and_is_what_has_to_answer(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = free_port()
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed}")
    with coordinator(keys) as port:
        found = findings(port, keys)
        monkeypatch.setenv("no_proxy", "localhost")
        past = findings(port, keys)
    assert found["proxy"].level == Level.WARN
    assert f"127.0.0.1:{closed}" in found["proxy"].detail
    assert f"pass CONNECT localhost:{port}" in found["proxy"].remedy
    assert f"127.0.0.1:{closed} does not answer" in found["tcp"].detail
    assert set(levels(past).values()) == {"ok"}
