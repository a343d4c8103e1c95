"""Certificate requests: made for keys that sign elsewhere, and read before a certificate is issued.

Pure but for the randomness of signatures.

Standards:
    RFC2986 (PKCS#10)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asn1crypto import csr as asn1_csr  # type: ignore[import-untyped]  # ships no types
from asn1crypto import keys as asn1_keys
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.address import DirectAddress, parse_address, parse_domain
from certs.errors import DirectError, Reason
from certs.issue import KeyKind, PublicKey, generate_key, signing_request

__all__ = ["read_request", "request_by"]

FILE_OCTETS: Final = 64 * 1024


def request_by(
    sign: Callable[[bytes], bytes],
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    subject: DirectAddress | str,
) -> x509.CertificateSigningRequest:
    """Return a request for a key that `sign`s with SHA-256 and shows its public half only."""
    # The form is taken from a request by a key of no other use.
    form = signing_request(generate_key(KeyKind.P256), subject)
    request = asn1_csr.CertificationRequest.load(form.public_bytes(Encoding.DER))
    body = request["certification_request_info"]
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body["subject_pk_info"] = asn1_keys.PublicKeyInfo.load(encoded)
    name = "sha256_rsa" if isinstance(public, rsa.RSAPublicKey) else "sha256_ecdsa"
    signed = asn1_csr.CertificationRequest(
        {
            "certification_request_info": body,
            "signature_algorithm": {"algorithm": name},
            "signature": sign(body.dump(force=True)),
        }
    )
    return x509.load_der_x509_csr(signed.dump())


def read_request(data: bytes) -> tuple[PublicKey, DirectAddress | str]:
    """Return the key of a PKCS#10 request, PEM or DER, and whom it is for.

    Raises:
        DirectError: CONFIGURATION_INVALID; not a request, not signed by its own key, or not for
            exactly one address or domain. ADDRESS_MALFORMED.
    """
    if len(data) > FILE_OCTETS:
        raise _invalid("over 64 KiB")
    try:
        is_pem = data.lstrip().startswith(b"-----BEGIN")
        request = x509.load_pem_x509_csr(data) if is_pem else x509.load_der_x509_csr(data)
        sound = request.is_signature_valid
        key = request.public_key()
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _invalid("it names no address or domain in subjectAltName") from None
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise _invalid("it does not parse") from None
    if not sound or not isinstance(key, PublicKey):
        raise _invalid("it is not signed by its own key, or the key is of no use for Direct")
    return key, _subject(list(names))


def _subject(names: list[x509.GeneralName]) -> DirectAddress | str:
    match names:
        case [x509.RFC822Name(value=address)]:
            return parse_address(address)
        case [x509.DNSName(value=domain)]:
            return parse_domain(domain)
        case _:
            raise _invalid("it must be for exactly one address or domain")


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, f"certificate request: {detail}")
