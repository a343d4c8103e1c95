"""TLS for tests of SMTP: a server certificate for a host name, and clients that trust it or not."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway import tls

__all__ = [
    "NOT_AFTER",
    "ServerCertificate",
    "client_context",
    "issued_context",
    "server_certificate",
    "server_context",
]

# TLS libraries compare with the machine's clock, so these dates are as wide as they can be.
NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2099, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ServerCertificate:
    """A self-signed certificate with its key; it is its own trust anchor."""

    certificate: x509.Certificate
    certificate_pem: bytes
    key_pem: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write certificate and key into `folder` and return their paths."""
        certificate, key = folder / "tls.pem", folder / "tls.key"
        certificate.write_bytes(self.certificate_pem)
        key.write_bytes(self.key_pem)
        key.chmod(0o600)
        return certificate, key


@cache
def server_certificate(*names: str) -> ServerCertificate:
    """The certificate of a server with these names; made once per session."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return ServerCertificate(
        certificate,
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def server_context(*names: str) -> ssl.SSLContext:
    """Our own servers' context, with the certificate for these names."""
    with TemporaryDirectory() as folder:
        return tls.server_context(*server_certificate(*names).write(Path(folder)))


@cache
def issued_context(name: str, *, not_after: datetime = NOT_AFTER) -> tuple[ssl.SSLContext, bytes]:
    """The context of a server whose certificate an intermediate CA has issued, and that CA."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("CA", "Root", ca_key, ec.generate_private_key(ec.SECP256R1()), ca=True)
    leaf = _certificate(name, "CA", key, ca_key, ca=False, not_after=not_after)
    pem = [each.public_bytes(Encoding.PEM) for each in (leaf, ca)]
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with TemporaryDirectory() as folder:
        paths = ServerCertificate(leaf, b"".join(pem), private).write(Path(folder))
        return tls.server_context(*paths), ca.public_bytes(Encoding.DER)


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    not_after: datetime = NOT_AFTER,
) -> x509.Certificate:
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, issuer)]
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), False)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def client_context(trusted: Iterable[ServerCertificate] = ()) -> ssl.SSLContext:
    """A client's context: trusts only what is given; trusting nothing, it verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anchors = list(trusted)
    if not anchors:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for anchor in anchors:
        context.load_verify_locations(cadata=anchor.certificate_pem.decode())
    return context
