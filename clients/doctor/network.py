"""The way to the coordinator, one step after the other; what needs an earlier step is skipped."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from clients.doctor.finding import Finding, Level, bad, good, skipped, warning
from fedssl.deploy.site_file import NodeSpec

__all__ = ["check_network"]

PATIENCE: Final = 6.0
"""Seconds for each step."""

SKEW: Final = (5.0, 240.0)
"""Seconds between the clocks: above the first a signature from the future is refused, above the
second an old one."""

EXPIRY_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    date: str


def check_network(node: NodeSpec) -> Iterator[Finding]:
    """Yield the findings on name, port, certificate, clock, proxy, and what is reachable."""
    yield _proxy(node)
    steps: list[Callable[[NodeSpec], Finding]] = [_dns, _tcp]
    steps += [_tls, _expiry, _coordinator, _clock, _control] if node.root_certificates else [_plain]
    failed = ""
    for step in steps:
        name = _NAMES[step.__name__]
        finding = skipped(name, f"because of: {failed}") if failed else step(node)
        if finding.level == Level.FAIL and step in (_dns, _tcp, _tls):
            failed = finding.check
        yield finding


_NAMES: Final = {
    "_dns": "dns",
    "_tcp": "tcp",
    "_tls": "tls",
    "_expiry": "certificate",
    "_coordinator": "coordinator",
    "_clock": "clock",
    "_control": "exposure",
    "_plain": "tls",
}


def _used_proxy(node: NodeSpec) -> SplitResult | None:
    """Return the proxy that the environment sets for the coordinator, as Flower will use it."""
    url = getproxies().get("https") or getproxies().get("all")
    if not url or proxy_bypass(node.host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _first_hop(node: NodeSpec) -> tuple[str, int]:
    """Return what this machine itself connects to."""
    proxy = _used_proxy(node)
    if proxy is None:
        return node.host, node.coordinator_port
    return proxy.hostname or "", proxy.port or 80


def _proxy(node: NodeSpec) -> Finding:
    """Say whether the environment sends the connection through a proxy."""
    if _used_proxy(node) is None:
        return good("proxy", "none is used for the coordinator")
    host, port = _first_hop(node)
    remedy = (
        f"If joining fails, add {node.host} to NO_PROXY, or have the proxy pass CONNECT "
        f"{node.coordinator} through without opening TLS."
    )
    return warning("proxy", f"the connection goes through {host}:{port}", remedy)


def _dns(node: NodeSpec) -> Finding:
    host, port = _first_hop(node)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        remedy = "Check the name in [node] coordinator, and this machine's name server."
        return bad("dns", f"{host} has no address: {error}", remedy)
    return good("dns", f"{host} is {', '.join(sorted({str(a[4][0]) for a in found}))}")


def _tcp(node: NodeSpec) -> Finding:
    host, port = _first_hop(node)
    try:
        with socket.create_connection((host, port), PATIENCE):
            return good("tcp", f"{host}:{port} answers")
    except OSError as error:
        remedy = (
            f"Ask your network administrators to allow outgoing TCP to {host}:{port}; ask the "
            "coordinator whether the service is up."
        )
        return bad("tcp", f"{host}:{port} does not answer: {error}", remedy)


def _plain(node: NodeSpec) -> Finding:
    remedy = "Set root-certificates in [node]; without TLS use it on one machine only."
    return warning("tls", "the connection is not encrypted", remedy)


def _connection(node: NodeSpec) -> HTTPSConnection:
    """Return a connection that checks the certificate; through the proxy, if there is one."""
    context = ssl.create_default_context(cafile=node.root_certificates)
    host, port = _first_hop(node)
    connection = HTTPSConnection(host, port, timeout=PATIENCE, context=context)
    proxy = _used_proxy(node)
    if proxy is not None:
        headers = {}
        if proxy.username:
            login = f"{proxy.username}:{proxy.password or ''}".encode()
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        connection.set_tunnel(node.host, node.coordinator_port, headers)
    return connection


def _tls(node: NodeSpec) -> Finding:
    try:
        version = _handshake(node)[1]
    except ssl.SSLCertVerificationError as error:
        remedy = (
            "If a firewall opens TLS here, ask for an exception; otherwise the coordinator has a "
            "new certificate: ask for its ca.crt, and compare it over the telephone."
        )
        return bad("tls", f"the certificate is not trusted: {error.verify_message}", remedy)
    except (ssl.SSLError, OSError) as error:
        remedy = "Check host and port; something else than the coordinator may listen there."
        return bad("tls", f"no TLS connection: {error}", remedy)
    return good("tls", f"{version}, certificate trusted through {node.root_certificates}")


def _handshake(node: NodeSpec) -> tuple[bytes, str]:
    """Return the server's certificate (DER) and the protocol's name."""
    connection = _connection(node)
    try:
        connection.connect()
        secure = connection.sock
        assert isinstance(secure, ssl.SSLSocket)
        return secure.getpeercert(binary_form=True) or b"", secure.version() or ""
    finally:
        connection.close()


def _expiry(node: NodeSpec) -> Finding:
    from cryptography import x509

    server = x509.load_der_x509_certificate(_handshake(node)[0])
    roots = x509.load_pem_x509_certificates(Path(node.root_certificates).read_bytes())
    end = min(certificate.not_valid_after_utc for certificate in [server, *roots])
    days = (end - datetime.now(UTC)).days
    detail = f"valid until {end:%Y-%m-%d} ({days} days)"
    if days < EXPIRY_DAYS:
        remedy = "Ask the coordinator for a new certificate: fedssl keys --host NAME."
        return warning("certificate", detail, remedy)
    return good("certificate", detail)


def _ask(node: NodeSpec, method: str, path: str) -> _Reply:
    connection = _connection(node)
    try:
        connection.request(method, path, headers={"Content-Type": "application/json"})
        reply = connection.getresponse()
        return _Reply(reply.status, reply.headers.get("Date", ""))
    finally:
        connection.close()


def _coordinator(node: NodeSpec) -> Finding:
    remedy = "Tell the coordinator; joining will wait until it is up."
    try:
        reply = _ask(node, "GET", "/health")
    except (OSError, HTTPException) as error:
        return bad("coordinator", f"it does not speak HTTP: {error}", remedy)
    if reply.status in (502, 503, 504):
        return bad("coordinator", f"its proxy is up, its SuperLink is not ({reply.status})", remedy)
    if reply.status != 200:
        return bad("coordinator", f"/health answers {reply.status}", remedy)
    return good("coordinator", "its SuperLink is up")


def _clock(node: NodeSpec) -> Finding:
    try:
        theirs = parsedate_to_datetime(_ask(node, "GET", "/health").date)
    except (OSError, HTTPException, ValueError, TypeError):
        return skipped("clock", "the coordinator does not tell its time")
    ahead = (datetime.now(UTC) - theirs).total_seconds()
    detail = f"this machine is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} it"
    remedy = "Let this machine take its time from a time server (timedatectl set-ntp true)."
    # The header has whole seconds, so a second more is no finding.
    if ahead > SKEW[0] + 1 or ahead < -SKEW[1]:
        return bad("clock", f"{detail}; signed messages are refused", remedy)
    return good("clock", detail)


def _control(node: NodeSpec) -> Finding:
    """Look whether a site can reach what only the coordinator may: it should not."""
    try:
        reply = _ask(node, "POST", "/v1/control/list-runs")
    except (OSError, HTTPException) as error:
        return skipped("exposure", f"not known: {error}")
    if reply.status in (403, 404):
        return good("exposure", "run control is closed to sites")
    remedy = (
        "Tell the coordinator to put the proxy in front (docs/deployment.md). Until then keep "
        'accept-code = "installed": whoever reaches that port can send code to all sites.'
    )
    return warning("exposure", f"run control answers sites ({reply.status})", remedy)
