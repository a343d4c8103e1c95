"""Refresh trust bundles: fetch, read, judge the signature, and put in force or keep what was.

Talks to the bundle's server, to the servers that know of its signer's revocation, and to the
database. Nothing changes until everything has been judged, and then all at once; after any
failure the anchors are those of before, and the failure is recorded and told.

Standards:
    TBIG  Direct Trust Bundle Implementation Guide v1.0, section 3; TB-005, TB-006, TB-008, TB-012
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import sqlalchemy as sa
from cryptography import x509

from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.locations import crl_urls, ocsp_urls
from certs.ocsp import Status as Answer
from certs.path import Path
from certs.policy import CertificatePolicy
from certs.ports import Clock, Database
from certs.revocation import judge
from trust_bundles.bundle import Bundle, read_bundle
from trust_bundles.bundles import StoredBundle, get_bundle
from trust_bundles.outcome import Fetched, Outcome, Validators
from trust_bundles.signature import Signature, issued_by, verify
from trust_bundles.status import BundleError, Status
from trust_bundles.tables import bundle
from trust_bundles.versions import (
    Arrival,
    Installed,
    content_of,
    install,
    known_version,
)

__all__ = ["BundleSource", "Issuers", "Refresher", "Revocations", "Told"]

# After a failure: soon again, then ever later, up to the bundle's own interval.
FIRST_RETRY: Final = timedelta(minutes=5)
DOUBLINGS: Final = 10
JITTER: Final = 0.1  # of the interval, either way
DETAIL_CHARACTERS: Final = 500


class BundleSource(Protocol):
    """Fetches bundles; `trust_bundles.fetch.BundleClient` is one."""

    async def fetch(self, url: str, known: Validators, tls_ca: str | None) -> Fetched:
        """Return what is at `url` now, or that it is what `known` names."""
        ...


class Revocations(Protocol):
    """Fetches revocation answers; `certs.revocation_source.RevocationSource` is one."""

    async def answers_for(self, path: Path, *, now: datetime) -> Revocation:
        """Return what could be learnt about every certificate of `path`, unjudged."""
        ...


class Issuers(Protocol):
    """Fetches issuers' certificates; `certs.issuer_source.IssuerSource` is one."""

    async def named_by(self, cert: x509.Certificate, now: datetime) -> Sequence[x509.Certificate]:
        """Return what is where `cert` says that its issuer's certificate is."""
        ...


# Told of each outcome within the transaction that records it.
Told = Callable[[sa.Connection, Outcome, datetime], None]


class Refresher:
    """Refreshes bundles one at a time. `actor` is who causes it; `random` is from 0 to 1."""

    def __init__(
        self,
        *,
        database: Database,
        source: BundleSource,
        revocations: Revocations,
        issuers: Issuers,
        policy: CertificatePolicy,
        clock: Clock,
        random: Callable[[], float],
        tell: Told,
        actor: str,
    ) -> None:
        self._database = database
        self._source = source
        self._revocations = revocations
        self._issuers = issuers
        self._policy = policy
        self._clock = clock
        self._random = random
        self._tell = tell
        self._actor = actor

    async def refresh(self, name: str, *, allow_older: bool = False) -> Outcome:
        """Fetch a bundle from its URL; a failure is an outcome and is not raised.

        Raises:
            DirectError: RESOURCE_NOT_FOUND; CONFIGURATION_INVALID where it has no URL; INTERNAL
                where the database failed.
        """
        stored = await self._database.read(lambda c: get_bundle(c, name))
        url = stored.settings.url
        if url is None:
            raise DirectError(Reason.CONFIGURATION_INVALID, f"bundle {name} has no URL")
        known = Validators(stored.etag, stored.last_modified)
        try:
            fetched = await self._source.fetch(url, known, stored.settings.tls_ca)
            return await self._take(stored, fetched, url, allow_older=allow_older)
        except BundleError as error:
            return await self._record(stored, _failed(name, error), None)

    async def take_file(self, name: str, content: bytes, *, allow_older: bool = False) -> Outcome:
        """Judge octets that the administrator has, as if they had been fetched.

        Raises:
            DirectError: RESOURCE_NOT_FOUND; INTERNAL where the database failed.
        """
        stored = await self._database.read(lambda c: get_bundle(c, name))
        # What the server knows its own content by does not name this one.
        fetched = Fetched(content, Validators())
        try:
            return await self._take(stored, fetched, "file", allow_older=allow_older)
        except BundleError as error:
            return await self._record(stored, _failed(name, error), None)

    async def check_again(self, name: str, number: int) -> None:
        """Return where version `number`, which waits, would be taken if it came now.

        Its signer may have run out, been revoked or replaced since it came.

        Raises:
            BundleError: it would not.
            DirectError: RESOURCE_NOT_FOUND; INTERNAL where the database failed.
        """
        now = self._clock()
        stored, content = await self._database.read(
            lambda c: (get_bundle(c, name), content_of(c, name, number))
        )
        _read, signature = await asyncio.to_thread(_judged, content, stored, now)
        await self._not_revoked(signature, now)

    async def _take(
        self, stored: StoredBundle, fetched: Fetched, source: str, *, allow_older: bool
    ) -> Outcome:
        now = self._clock()
        if fetched.content is None:
            outcome = Outcome(stored.name, Status.UNCHANGED, "not modified")
            return await self._record(stored, outcome, fetched.validators)
        content = fetched.content
        sha256 = hashlib.sha256(content).hexdigest()
        # TB-006: the same octets, judged under the same settings, are no change.
        if stored.seen_sha256 == sha256 and not await self._is_news(stored, sha256):
            outcome = Outcome(stored.name, Status.UNCHANGED, "the same content", sha256=sha256)
            return await self._record(stored, outcome, fetched.validators)
        read, signature = await asyncio.to_thread(_judged, content, stored, now)
        note = await self._not_revoked(signature, now)
        arrival = Arrival(content, read, signature, source, self._actor)

        def write(connection: sa.Connection) -> Outcome:
            # Another refresh or an administrator may have been quicker.
            _settings_are_still(connection, stored)
            done = install(connection, stored.name, arrival, now=now, allow_older=allow_older)
            outcome = _installed(stored.name, done, sha256, note)
            self._write(connection, stored, outcome, fetched.validators)
            return outcome

        return await self._database.write(write)

    async def _is_news(self, stored: StoredBundle, sha256: str) -> bool:
        return await self._database.read(lambda c: known_version(c, stored, sha256)) is None

    async def _not_revoked(self, signature: Signature | None, now: datetime) -> str | None:
        """Return what is to be said about the signature where it holds (TB-005).

        Raises:
            BundleError: INVALID_SIGNING_CERT; the signer is revoked, or not known not to be
                where the policy demands that.
        """
        if signature is None:
            return None
        if not signature.trusted:
            return "signed, but no signer is configured to check it by"
        path = signature.path or await self._path_above(signature.signer, now)
        if path is None:
            return None
        answers = await self._revocations.answers_for(path, now=now)
        try:
            status = await asyncio.to_thread(judge, path, answers, now=now, policy=self._policy)
        except DirectError as error:
            raise BundleError(Status.INVALID_SIGNING_CERT, str(error)) from None
        unknown = "the signer's revocation could not be learnt"
        return unknown if status is Answer.UNKNOWN else None

    async def _path_above(self, signer: x509.Certificate, now: datetime) -> Path | None:
        """Return the path to whoever can revoke a configured signer; None: nobody can.

        Whoever holds a stolen key leaves the issuer's certificate out of the bundle.

        Raises:
            BundleError: INVALID_SIGNING_CERT; it says that it can be revoked, and not by whom.
        """
        if not (crl_urls(signer) or ocsp_urls(signer)):
            return None
        path = issued_by(signer, await self._issuers.named_by(signer, now))
        if path is None:
            detail = (
                "its issuer, who could have revoked it, is neither in the bundle nor at its AIA"
            )
            raise BundleError(Status.INVALID_SIGNING_CERT, detail)
        return path

    async def _record(
        self, stored: StoredBundle, outcome: Outcome, validators: Validators | None
    ) -> Outcome:
        await self._database.write(lambda c: self._write(c, stored, outcome, validators))
        return outcome

    def _write(
        self,
        connection: sa.Connection,
        stored: StoredBundle,
        outcome: Outcome,
        validators: Validators | None,
    ) -> None:
        now = self._clock()
        failed = outcome.status.failed
        failures = stored.failures + 1 if failed else 0
        values: dict[str, object] = {
            "status": outcome.status.value,
            "detail": outcome.detail,
            "checked_at": now,
            "due_at": self._due(stored, failures, now),
            "failures": failures,
        }
        if outcome.status is Status.UNCHANGED and stored.staged is not None:
            values["status"] = Status.STAGED.value
        if not failed:
            values["good_at"] = now
        if validators is not None and not failed:
            values |= {"etag": validators.etag, "last_modified": validators.last_modified}
        if outcome.sha256 is not None:
            values["seen_sha256"] = outcome.sha256
        connection.execute(sa.update(bundle).where(bundle.c.name == stored.name).values(**values))
        self._tell(connection, outcome, now)

    def _due(self, stored: StoredBundle, failures: int, now: datetime) -> datetime | None:
        interval = stored.settings.interval
        if stored.settings.url is None or not interval:
            return None
        if failures:
            interval = min(interval, FIRST_RETRY * 2 ** min(failures - 1, DOUBLINGS))
        # Many gateways fetch the same bundle, and must not all do so at the same time.
        return now + interval * (1 + JITTER * (2 * self._random() - 1))


def _judged(content: bytes, stored: StoredBundle, now: datetime) -> tuple[Bundle, Signature | None]:
    read = read_bundle(content, now=now)
    return read, verify(read.envelope, stored.settings.signer_certificates, now=now)


def _settings_are_still(connection: sa.Connection, stored: StoredBundle) -> None:
    """Return where what the content was judged by is what is configured now.

    Raises:
        DirectError: RESOURCE_CONFLICT; an administrator changed it meanwhile.
    """
    settings = get_bundle(connection, stored.name).settings
    if (settings.url, settings.signers) != (stored.settings.url, stored.settings.signers):
        raise DirectError(Reason.RESOURCE_CONFLICT, f"bundle {stored.name} was changed meanwhile")


def _installed(name: str, done: Installed, sha256: str, note: str | None) -> Outcome:
    return Outcome(name, done.status, note, done.number, done.added, done.removed, sha256)


def _failed(name: str, error: BundleError) -> Outcome:
    detail = error.detail.removeprefix(f"{error.status.value}: ")
    printable = "".join(c if c.isprintable() else " " for c in detail)
    return Outcome(name, error.status, printable[:DETAIL_CHARACTERS])
