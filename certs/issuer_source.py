"""Issuers' certificates, fetched where a certificate says that they are.

Talks to the HTTP servers that certificates name: anybody can send mail that names a slow one, or a
thousand. Each is given little time, and only what led to an anchor goes into the archive.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2.2
    RFC5280 section 4.2.2.1 (authorityInfoAccess)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from cryptography import x509

from certs.cert_files import certificates_in
from certs.http_client import HttpClient
from certs.locations import issuer_urls
from certs.path import Path
from certs.ports import Archive, Kind
from certs.remembered import Fetched, Remembered

__all__ = ["IssuerSource"]

Issuers = tuple[x509.Certificate, ...]

KEPT: Final = 1000  # answers in memory
UNPROVED: Final = 100  # answers that may yet go to the archive
ANSWER_OCTETS: Final = 128 * 1024
KEPT_FOR: Final = timedelta(days=1)
FETCH_S: Final = 5.0


class IssuerSource:
    """Fetches and keeps issuers by their URL (AS-082)."""

    def __init__(self, *, http: HttpClient, archive: Archive | None = None) -> None:
        self._http = http
        self._answers = Remembered(Kind.ISSUERS, size=KEPT, archive=archive, read=certificates_in)
        self._unproved: dict[str, Fetched[Issuers]] = {}

    async def named_by(self, cert: x509.Certificate, now: datetime) -> Sequence[x509.Certificate]:
        """Return what is at the first URL of `cert` that yields any; nothing is raised."""
        for url in issuer_urls(cert):
            kept = await self._answers.get(url, now, partial(self._fetch, url))
            if kept.answer is not None:
                return kept.answer
        return ()

    async def led_to_anchor(self, path: Path, now: datetime) -> None:
        """Take that `path` is good: what was fetched for it may be kept across restarts."""
        for cert in path.certificates:
            for url in issuer_urls(cert):
                fetched = self._unproved.pop(url, None)
                if fetched is not None and set(fetched.answer) & {*path.certificates}:
                    await self._answers.store(url, fetched, now)

    def forget(self) -> None:
        """Forget what is in memory."""
        self._answers.forget()
        self._unproved.clear()

    async def _fetch(self, url: str, _: Issuers | None, now: datetime) -> Fetched[Issuers]:
        content = await self._http.get(url, limit_octets=ANSWER_OCTETS, deadline_s=FETCH_S)
        fetched = Fetched(certificates_in(content), content, now + KEPT_FOR, lasting=False)
        self._unproved[url] = fetched
        if len(self._unproved) > UNPROVED:
            del self._unproved[next(iter(self._unproved))]
        return fetched
