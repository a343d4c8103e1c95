"""What the verbs of trust have in common: owners, directions, spans of time, fingerprints.

Talks to the files it is given.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import DirectError, Reason
from certs.issuers import sha256_of
from gateway.cli.common import fail, read_file
from gateway.clock import utc_now
from trust_bundles.bundle import Bundle, read_bundle
from trust_bundles.policy import Direction, Period

__all__ = [
    "Directions",
    "Owner",
    "Owners",
    "bundle_in",
    "described",
    "pem_in",
    "period_of",
    "shown_directions",
    "span_of",
]

Owner = Annotated[str, typer.Option("--for", help="Domain or address that trusts it.")]
Owners = Annotated[list[str] | None, typer.Option("--for", help="Domain or address; repeatable.")]
Directions = Annotated[
    list[Direction] | None, typer.Option("--direction", help="incoming, outgoing; default: both.")
]

_SPAN: Final = re.compile(r"([0-9]{1,6})(m|h|d)")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def span_of(text: str) -> timedelta:
    """Return the time that `text` says, such as 30m, 24h or 7d; exit 2 where it says none."""
    if text == "0":
        return timedelta(0)
    found = _SPAN.fullmatch(text)
    if found is None:
        fail(f"{text!r}: say a time as 30m, 24h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def period_of(begins: str, ends: str) -> Period:
    """Return the period between two ISO 8601 times, either of which may be empty."""
    period = Period(_time(begins), _time(ends))
    if period.begins and period.ends and period.begins >= period.ends:
        fail("--from is not before --until")
    return period


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text!r}: say a time as 2027-01-31 or 2027-01-31T12:00:00+00:00")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def pem_in(path: Path) -> str:
    """Return the certificates in a file, of any form, as PEM; exit 2 where there is none."""
    data = read_file(path)
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        try:
            found = [x509.load_der_x509_certificate(data)]
        except ValueError:
            fail(f"{path}: no certificate, PEM or DER")
    return "".join(cert.public_bytes(Encoding.PEM).decode() for cert in found)


def bundle_in(path: Path) -> tuple[bytes, Bundle]:
    """Return the octets of a file and the bundle they are; exit 2 where they are none."""
    data = read_file(path)
    try:
        return data, read_bundle(data, now=utc_now())
    except DirectError as error:
        raise DirectError(Reason.BUNDLE_MALFORMED, f"{path}: {error.detail}") from None


def described(cert: x509.Certificate) -> dict[str, Any]:
    """Return what people and programs know a CA certificate by."""
    return {
        "subject": cert.subject.rfc4514_string(),
        "expires": cert.not_valid_after_utc,
        "sha256": sha256_of(cert).hex(),
    }


def shown_directions(directions: Collection[Direction] | Iterable[Direction]) -> str:
    """Return directions as lists show them."""
    return " ".join(sorted(direction.value for direction in directions))
