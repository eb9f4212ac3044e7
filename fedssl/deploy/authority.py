"""A small private certificate authority: one root, and server certificates signed by it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedssl.deploy.private_files import make_private_folder, write_new, write_private
from fedssl.errors import ConfigError, DataError

__all__ = [
    "COMPOSE_NAMES",
    "LOCAL_NAMES",
    "Authority",
    "certified_names",
    "create_authority",
    "load_authority",
    "require_host",
    "write_server_certificate",
]

ROOT_YEARS: Final = 10
SERVER_DAYS: Final = 825
"""Longest life of a server certificate that common TLS stacks accept."""

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""Flower's ServerApp process reaches its own SuperLink under these."""

COMPOSE_NAMES: Final = ("superlink", "proxy")
"""Services of the compose files that terminate TLS."""

_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Authority:
    """A root certificate and the key that signs with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def require_host(name: str) -> str:
    """Return a host name or address; refuse what no certificate can be for.

    Raises:
        ConfigError: it is a URL, has a port or blanks, or other letters than ASCII.
    """
    try:
        ip_address(name)
    except ValueError:
        if not _HOST.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no host name or address. Give it without https:// and without a "
                "port, e.g. 'fl.example.org'; other letters than ASCII in their xn-- form."
            ) from None
    return name


def create_authority(folder: Path, name: str = "fedssl private CA") -> Authority:
    """Make a root and write `ca.crt` and `ca.key` (0600).

    Args:
        folder: where the files go; made private if it does not exist.
        name: common name of the root.

    Raises:
        DataError: one of the files exists already.
    """
    make_private_folder(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(name)
    builder = (
        _certificate(subject, subject, key, timedelta(days=365 * ROOT_YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA384())
    write_private(folder / "ca.key", _pem(key))
    write_new(folder / "ca.crt", certificate.public_bytes(Encoding.PEM))
    return Authority(certificate, key)


def load_authority(folder: Path) -> Authority:
    """Read what `create_authority` wrote.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} holds no usable ca.crt and ca.key ({error}). If ca.key is kept offline, put "
            "it back for a moment."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataError(f"{folder / 'ca.key'} is no elliptic-curve key; make one: fedssl keys.")
    return Authority(certificate, key)


def certified_names(path: Path) -> list[str]:
    """Return the host names and addresses that a certificate (PEM) is for.

    Raises:
        DataError: it cannot be read, or names none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise DataError(f"{path} is no usable certificate: {error}.") from None
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*names.get_values_for_type(x509.DNSName), *map(str, addresses)]


def write_server_certificate(authority: Authority, folder: Path, names: Sequence[str]) -> Path:
    """Write `server.key` (0600) and `server.pem`, and return the latter's path.

    The certificate is valid for `names`, for the loopback addresses, which the coordinator's own
    processes use, and for the services of the compose files.

    Args:
        authority: who signs.
        folder: where the files go.
        names: public host names or addresses of the coordinator; the first is the common name.

    Raises:
        DataError: there is no name, or a file exists already.
    """
    if not names:
        raise DataError("A server certificate needs the coordinator's public name or address.")
    make_private_folder(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = authority.certificate
    everything = dict.fromkeys([*names, *COMPOSE_NAMES, *LOCAL_NAMES])
    builder = (
        _certificate(_name(names[0]), issuer.subject, key, timedelta(days=SERVER_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(n) for n in everything]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    certificate = builder.sign(authority.key, hashes.SHA384())
    write_private(folder / "server.key", _pem(key))
    return write_new(folder / "server.pem", certificate.public_bytes(Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta
) -> x509.CertificateBuilder:
    # An hour back: a site's clock may run behind.
    begin = datetime.now(UTC) - timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
