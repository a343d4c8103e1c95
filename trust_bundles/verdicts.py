"""Judgements over paths, kept while nothing they rest on has changed.

Pure but for the memory it is: the shell makes one cache and hands it to every decision. A verdict
is found again only under the same certificate, intermediates, anchors, policy and revocation
answers, so a changed anchor, bundle or CRL takes effect at the next message.

Standards:
    Design decision 3: kept until the earliest of notAfter, CRL nextUpdate and one hour
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certs.errors import Reason
from certs.evidence import Evidence, Revocation
from certs.ocsp import Status, fresh_until
from certs.path import Path
from certs.policy import CertificatePolicy
from trust_bundles.anchors import Anchors
from trust_bundles.policy import Purpose

__all__ = ["Judged", "Key", "VerdictCache", "key_of"]

LONGEST: Final = timedelta(hours=1)
LONGEST_FAILURE: Final = timedelta(minutes=1)

Key = tuple[
    x509.Certificate,
    tuple[x509.Certificate, ...],
    bytes,
    tuple[bytes, ...],
    Purpose,
    CertificatePolicy,
]


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement: `reason` None where the certificate is fit, on a path, and not revoked."""

    path: Path | None
    status: Status | None
    reason: Reason | None
    detail: str | None
    revocation: Revocation

    def good_until(self, now: datetime) -> datetime:
        """Return until when the same question has the same answer, at most one hour on."""
        if self.path is None or self.reason is not None:
            return now + LONGEST_FAILURE
        ends = [cert.not_valid_after_utc for cert in (*self.path.certificates, self.path.anchor)]
        answers = [crl.next_update for crl in self.revocation.crls]
        answers += [fresh_until(answer) for answer in self.revocation.ocsp_responses]
        ends += [end for end in answers if end is not None and end > now]
        return min((now + LONGEST, *ends))


class VerdictCache:
    """At most `size` judgements, the oldest going first; safe between threads."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._entries: dict[Key, tuple[Judged, datetime, datetime]] = {}
        self._lock = Lock()

    def get(self, key: Key, now: datetime) -> Judged | None:
        """Return what was judged, while it holds; a clock set back forgets it."""
        entry = self._entries.get(key)
        return entry[0] if entry is not None and entry[1] <= now < entry[2] else None

    def put(self, key: Key, judged: Judged, now: datetime) -> None:
        """Keep a judgement made at `now`."""
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = (judged, now, judged.good_until(now))
            if len(self._entries) > self._size:
                del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


def key_of(
    cert: x509.Certificate,
    evidence: Evidence,
    anchors: Anchors,
    purpose: Purpose,
    policy: CertificatePolicy,
) -> Key:
    """Return everything that a judgement depends on, but the time."""
    revocation = evidence.revocation
    answers = [crl.digest for crl in revocation.crls]
    answers += [_digest(answer) for answer in revocation.ocsp_responses]
    return (
        cert,
        evidence.intermediates,
        anchors.digest,
        tuple(answers),
        purpose,
        policy,
    )


def _digest(answer: ocsp.OCSPResponse) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(answer.public_bytes(Encoding.DER))
    return digest.finalize()
