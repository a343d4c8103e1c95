"""CRLs and OCSP answers for the certificates of a path, fetched once and kept while they are good.

Talks to the HTTP servers that the certificates name. Only for paths that end in an anchor.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2
    RFC5280 section 5 (CRLs)
    RFC6960 appendix A (OCSP over HTTP)
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.x509 import ocsp

from certs.crl import CRL_OCTETS, Crl, read_crl
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.http_client import HttpClient
from certs.issuers import sha256_of
from certs.locations import crl_urls, ocsp_urls
from certs.memory import RETRY
from certs.ocsp import Status, fresh_until, read_answer, request_for, status_in
from certs.path import Path
from certs.ports import Archive, Kind
from certs.remembered import Fetched, Remembered

__all__ = ["RevocationSource"]

CRLS: Final = 512  # kept
OCSP_ANSWERS: Final = 10_000  # kept
OCSP_OCTETS: Final = 64 * 1024
LONGEST: Final = timedelta(hours=1)  # kept without asking again, whatever nextUpdate says
FETCH_S: Final = 10.0

_MEDIA_TYPE: Final = "application/ocsp-request"


class RevocationSource:
    """Fetches and keeps revocation answers; across restarts where there is an archive."""

    def __init__(self, *, http: HttpClient, archive: Archive | None = None) -> None:
        self._http = http
        self._crls = Remembered(Kind.CRL, size=CRLS, archive=archive, read=read_crl)
        self._ocsp = Remembered(Kind.OCSP, size=OCSP_ANSWERS, archive=archive, read=read_answer)

    async def fetch_ahead(self, now: datetime) -> None:
        """Fetch anew the lists that are in use and about to run out.

        Answers of responders are fetched ahead only when they are asked for: a responder need not
        learn whom we might write to.
        """
        await self._crls.fetch_ahead(now)

    def forget(self) -> None:
        """Forget what is in memory."""
        self._crls.forget()
        self._ocsp.forget()

    async def answers_for(self, path: Path, *, now: datetime) -> Revocation:
        """Return what could be learnt about every certificate of `path`, unjudged."""
        issuers = (*path.certificates[1:], path.anchor)
        pairs = zip(path.certificates, issuers, strict=True)
        answers = await asyncio.gather(*(self._one(*pair, now) for pair in pairs))
        return Revocation(
            crls=tuple(crl for answer in answers for crl in answer.crls),
            ocsp_responses=tuple(o for answer in answers for o in answer.ocsp_responses),
            unreachable=tuple(url for answer in answers for url in answer.unreachable),
            fetched_at=now,
        )

    async def _one(
        self, cert: x509.Certificate, issuer: x509.Certificate, now: datetime
    ) -> Revocation:
        # The list first: it serves all certificates of the CA, and tells nobody whom we write to.
        # A responder is asked only about what no list answers.
        answer = await self._from_lists(cert, issuer, now)
        if any(crl.fresh_at(now) for crl in answer.crls):
            return answer
        asked = await self._from_responders(cert, issuer, now)
        return Revocation(
            answer.crls, asked.ocsp_responses, answer.unreachable + asked.unreachable, now
        )

    async def _from_lists(
        self, cert: x509.Certificate, issuer: x509.Certificate, now: datetime
    ) -> Revocation:
        crls: list[Crl] = []
        unreachable: list[str] = []
        for url in crl_urls(cert):
            kept = await self._crls.get(url, now, partial(self._fetch_crl, url, issuer))
            crls += [kept.answer] if kept.answer else []
            unreachable += [url] if kept.failure else []
        return Revocation(tuple(crls), (), tuple(unreachable), now)

    async def _from_responders(
        self, cert: x509.Certificate, issuer: x509.Certificate, now: datetime
    ) -> Revocation:
        unreachable: list[str] = []
        for url in ocsp_urls(cert):
            key = f"{sha256_of(cert).hex()} {url}"
            kept = await self._ocsp.get(key, now, partial(self._ask, url, cert, issuer))
            unreachable += [url] if kept.failure else []
            if kept.answer is not None:
                return Revocation((), (kept.answer,), tuple(unreachable), now)
        return Revocation((), (), tuple(unreachable), now)

    async def _fetch_crl(
        self, url: str, issuer: x509.Certificate, old: Crl | None, now: datetime
    ) -> Fetched[Crl]:
        data = await self._http.get(
            url,
            limit_octets=CRL_OCTETS,
            deadline_s=FETCH_S,
            failure=Reason.REVOCATION_UNKNOWN,
        )
        crl = await asyncio.to_thread(read_crl, data)
        signed = await asyncio.to_thread(crl.signed_by, issuer)
        _no_worse(crl, old, issuer, signed=signed)
        if not signed:
            # Another key of the CA may have signed it, or somebody on the way: ask again soon.
            return Fetched(crl, data, now + RETRY, lasting=False)
        # AS-088: some lists live for a second. Asking again every minute is often enough.
        ends = max(crl.next_update or now + LONGEST, now + RETRY)
        return Fetched(crl, data, min(ends, now + LONGEST))

    async def _ask(
        self,
        url: str,
        cert: x509.Certificate,
        issuer: x509.Certificate,
        old: ocsp.OCSPResponse | None,
        now: datetime,
    ) -> Fetched[ocsp.OCSPResponse]:
        data = await self._http.post(
            url,
            request_for(cert, issuer),
            media_type=_MEDIA_TYPE,
            limit_octets=OCSP_OCTETS,
            deadline_s=FETCH_S,
            failure=Reason.REVOCATION_UNKNOWN,
        )
        answer = read_answer(data)
        if status_in(answer, cert, issuer, now) is Status.UNKNOWN:
            raise DirectError(Reason.REVOCATION_UNKNOWN, "OCSP responder knows no answer")
        ends = max(fresh_until(answer) or now + LONGEST, now + RETRY)
        return Fetched(answer, data, min(ends, now + LONGEST))


def _no_worse(new: Crl, old: Crl | None, issuer: x509.Certificate, *, signed: bool) -> None:
    """Refuse a list that cannot be what the CA publishes now: http lets others answer for it.

    Raises:
        DirectError: REVOCATION_UNKNOWN; the old list is the better one.
    """
    if old is None or not old.signed_by(issuer):
        return
    if not signed:
        raise DirectError(Reason.REVOCATION_UNKNOWN, "CRL is not signed by its issuer any more")
    if new.this_update < old.this_update:
        raise DirectError(Reason.REVOCATION_UNKNOWN, "CRL is older than the one before")
