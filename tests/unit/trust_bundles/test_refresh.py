"""Refreshing over real HTTPS: each failure has its status, and the old anchors stay in force."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.crl import read_crl
from certs.errors import DirectError, Reason
from certs.evidence import Revocation
from certs.identity import Identity
from certs.issue import Locations
from certs.path import Path
from certs.policy import CertificatePolicy, RevocationMode
from certs.ports import Database
from tests.helpers.bundle_host import BundleHost, bundle_host
from tests.helpers.pki import NOW, Ca, pem
from tests.helpers.trust import ADDRESS, BOTH, ONE, TWO, install_bundle
from trust_bundles.bundle import BUNDLE_OCTETS, read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m
from trust_bundles.bundles import (
    Settings,
    add_bundle,
    attach,
    change_bundle,
    claim_due,
    get_bundle,
    remove_bundle,
)
from trust_bundles.fetch import BundleClient
from trust_bundles.outcome import Outcome
from trust_bundles.policy import Direction
from trust_bundles.refresh import Refresher
from trust_bundles.sets import anchors_for
from trust_bundles.status import BundleError, Status
from trust_bundles.versions import (
    CONTENTS,
    Arrival,
    anchors_in_force,
    approve,
    content_of,
    history,
    install,
)

CRL = Locations(crls=("http://crl.example.org/signers.crl",))
SIGNING_CA = Ca.create("Signing CA", parent=Ca.create("Publisher Root"))
SIGNER = SIGNING_CA.issue(domain="bundles.example.org", locations=CRL)
HOUR = timedelta(hours=1)
PATH = "/bundle.p7m"


class Nowhere:
    """A resolver for which no host is public."""

    async def addresses(self, host: str) -> Sequence[str]:
        return []


@dataclass
class Answers:
    """Revocation answers, as fetched."""

    crls: list[x509.CertificateRevocationList] = field(default_factory=list)
    issuers: list[x509.Certificate] = field(default_factory=list)

    async def named_by(self, cert: x509.Certificate, now: datetime) -> Sequence[x509.Certificate]:
        return self.issuers

    async def answers_for(self, path: Path, *, now: datetime) -> Revocation:
        return Revocation(
            tuple(read_crl(crl.public_bytes(Encoding.DER)) for crl in self.crls), fetched_at=now
        )


@dataclass
class Site:
    """A gateway's side: one bundle "b", attached to a domain, with ONE in force by a file."""

    database: Database
    host: BundleHost
    tls_ca: str
    now: datetime = NOW
    answers: Answers = field(default_factory=Answers)
    policy: CertificatePolicy = field(default_factory=CertificatePolicy)
    told: list[Outcome] = field(default_factory=list)

    def tell(self, connection: sa.Connection, outcome: Outcome, now: datetime) -> None:
        self.told.append(outcome)

    @property
    def refresher(self) -> Refresher:
        return Refresher(
            database=self.database,
            source=BundleClient(resolver=Nowhere(), deadline_s=2),
            revocations=self.answers,
            issuers=self.answers,
            policy=self.policy,
            clock=lambda: self.now,
            random=lambda: 0.5,
            tell=self.tell,
            actor="test",
        )

    async def add(self, **settings: Any) -> None:
        """Add the bundle."""
        made = Settings(**{"url": self.host.url(PATH), "tls_ca": self.tls_ca, **settings})
        await self.database.write(lambda c: add_bundle(c, "b", made, self.now))
        await self.database.write(lambda c: attach(c, "b", ADDRESS.domain, BOTH, self.now))

    async def refresh(self, content: bytes | None = None, **more: Any) -> Outcome:
        """Publish `content`, where given, and refresh."""
        if content is not None:
            self.host.files[PATH] = content
        return await self.refresher.refresh("b", **more)

    async def trusted(self) -> set[x509.Certificate]:
        """What the domain trusts now."""
        return set(
            await self.database.read(
                lambda c: anchors_for(c, ADDRESS, Direction.INCOMING, self.now)
            )
        )

    async def stored(self) -> Any:
        return await self.database.read(lambda c: get_bundle(c, "b"))


@pytest.fixture
async def site(sqlite_database: Database) -> AsyncIterator[Site]:
    async with bundle_host() as (host, certificate):
        yield Site(sqlite_database, host, certificate.certificate_pem.decode())


def signed(*anchors: x509.Certificate, at: datetime = NOW, by: Identity = SIGNER) -> bytes:
    return write_p7m(anchors, by, now=at)


SIGNERS = pem(SIGNING_CA.certificate).decode()


async def test_what_was_fetched_is_in_force_at_the_next_message(site: Site) -> None:
    await site.add()
    outcome = await site.refresh(write_p7b([ONE]))
    assert (outcome.status, outcome.number) == (Status.SUCCESS, 1)
    assert await site.trusted() == {ONE}
    outcome = await site.refresh(write_p7b([TWO]))
    assert (len(outcome.added), len(outcome.removed)) == (1, 1)
    assert await site.trusted() == {TWO}
    stored = await site.stored()
    assert (stored.in_force, stored.status, stored.good_at) == (2, Status.SUCCESS, NOW)
    assert stored.due_at == NOW + timedelta(days=1)
    versions = await site.database.read(lambda c: history(c, "b"))
    assert [(v.number, v.actor, v.source) for v in versions] == [
        (2, "test", site.host.url(PATH)),
        (1, "test", site.host.url(PATH)),
    ]


async def test_unchanged_content_is_asked_for_by_its_validators(site: Site) -> None:
    await site.add()
    site.host.etags[PATH] = '"one"'
    site.host.headers[PATH] = "Last-Modified: Fri, 02 Jan 2026 12:00:00 GMT\r\n"
    await site.refresh(write_p7b([ONE]))
    outcome = await site.refresh()
    assert (outcome.status, outcome.detail) == (Status.UNCHANGED, "not modified")
    _, fields = site.host.asked[-1]
    assert fields["if-none-match"] == '"one"'
    assert fields["if-modified-since"] == "Fri, 02 Jan 2026 12:00:00 GMT"
    assert await site.trusted() == {ONE}
    del site.host.etags[PATH]
    assert (await site.refresh()).detail == "the same content"
    assert len(await site.database.read(lambda c: history(c, "b"))) == 1


async def test_file_in_the_place_of_what_was_fetched_is_not_taken_for_it(site: Site) -> None:
    await site.add()
    site.host.etags[PATH] = '"one"'
    await site.refresh(write_p7b([ONE]))
    taken = await site.refresher.take_file("b", write_p7b([TWO]))
    assert taken.status is Status.SUCCESS
    assert await site.trusted() == {TWO}
    # The server has nothing newer, and says so when it is asked whole.
    assert (await site.refresh()).status is Status.ROLLED_BACK
    site.host.etags[PATH] = '"two"'
    assert (await site.refresh(write_p7b([ONE, TWO]))).status is Status.SUCCESS


async def test_versions_on_every_database(database: Database) -> None:
    await install_bundle(database, "b", [ONE])
    settings = Settings(url="https://localhost/", needs_approval=True)
    await database.write(lambda c: change_bundle(c, "b", settings, NOW))
    content = write_p7b([TWO])
    arrival = Arrival(content, read_bundle(content, now=NOW), None, "file", "me")
    staged = await database.write(lambda c: install(c, "b", arrival, now=NOW))
    assert (staged.status, staged.number) == (Status.STAGED, 2)
    await database.write(lambda c: approve(c, "b", 2, [TWO], actor="me", now=NOW))
    assert await database.read(lambda c: anchors_in_force(c, "b")) == (TWO,)
    assert await database.read(lambda c: content_of(c, "b", 2)) == content
    newest, _ = await database.read(lambda c: history(c, "b"))
    assert (newest.number, len(newest.added), len(newest.removed)) == (2, 1, 1)
    assert await database.write(lambda c: claim_due(c, NOW, HOUR, limit=5)) == ["b"]
    assert await database.write(lambda c: claim_due(c, NOW, HOUR, limit=5)) == []
    await database.write(lambda c: remove_bundle(c, "b"))
    assert await database.read(lambda c: anchors_in_force(c, "b")) == ()


async def test_octets_of_old_versions_are_not_kept_for_ever(sqlite_database: Database) -> None:
    await install_bundle(sqlite_database, "b", [ONE])

    def more(c: sa.Connection) -> None:
        for number in range(CONTENTS + 1):
            content = write_p7b([TWO], str(number))
            arrival = Arrival(content, read_bundle(content, now=NOW), None, "file", "me")
            install(c, "b", arrival, now=NOW)

    await sqlite_database.write(more)
    assert len(await sqlite_database.read(lambda c: history(c, "b"))) == CONTENTS + 2
    with pytest.raises(DirectError) as caught:
        await sqlite_database.read(lambda c: content_of(c, "b", 1))
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    assert await sqlite_database.read(lambda c: content_of(c, "b", CONTENTS + 2))


async def test_not_modified_without_having_asked_is_no_answer(site: Site) -> None:
    await site.add()
    site.host.etags[PATH] = '"any"'
    site.host.files[PATH] = b""
    stored = await site.stored()
    assert stored.etag is None
    assert (await site.refresh(b"")).status is Status.EMPTY


FAILURES = [
    pytest.param(lambda: signed(TWO)[:-10], Status.INVALID_BUNDLE_FORMAT, id="cut-short"),
    pytest.param(lambda: b"", Status.EMPTY, id="empty"),
    pytest.param(lambda: write_p7b([]), Status.EMPTY, id="without-an-anchor"),
    pytest.param(lambda: bytes(BUNDLE_OCTETS + 1), Status.TOO_BIG, id="huge"),
    pytest.param(lambda: b"<html>", Status.INVALID_BUNDLE_FORMAT, id="not-a-bundle"),
    pytest.param(lambda: write_p7b([TWO]), Status.UNMATCHED_SIGNATURE, id="unsigned"),
    pytest.param(
        lambda: signed(TWO).replace(TWO.public_bytes(Encoding.DER), _twisted()),
        Status.UNMATCHED_SIGNATURE,
        id="changed-after-signing",
    ),
    pytest.param(
        lambda: signed(TWO, by=Ca.create("Other").issue(domain="x.example.org")),
        Status.UNMATCHED_SIGNATURE,
        id="signed-by-another",
    ),
    pytest.param(
        lambda: signed(TWO, by=SIGNING_CA.expired(domain="old.example.org")),
        Status.INVALID_SIGNING_CERT,
        id="signer-expired",
    ),
    pytest.param(lambda: signed(TWO, at=NOW - HOUR), Status.ROLLED_BACK, id="rolled-back"),
    pytest.param(
        lambda: signed(TWO, at=NOW + HOUR), Status.UNMATCHED_SIGNATURE, id="signed-in-the-future"
    ),
]


def _twisted() -> bytes:
    """TWO with one bit of its signature another."""
    data = TWO.public_bytes(Encoding.DER)
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(("publish", "status"), FAILURES)
async def test_failure_has_its_status_and_keeps_the_anchors(
    site: Site, publish: Any, status: Status
) -> None:
    await site.add(signers=SIGNERS)
    site.answers.crls = [SIGNING_CA.crl()]
    assert (await site.refresh(signed(ONE))).status is Status.SUCCESS
    outcome = await site.refresh(publish())
    assert outcome.status is status
    assert site.told[-1] == outcome
    assert await site.trusted() == {ONE}
    stored = await site.stored()
    assert (stored.status, stored.in_force, stored.failures) == (status, 1, 1)
    assert stored.due_at == NOW + timedelta(minutes=5)  # soon again
    assert (await site.refresh(signed(ONE, TWO, at=NOW + timedelta(seconds=1)))).status is (
        Status.SUCCESS
    )
    assert (await site.stored()).failures == 0


async def test_revoked_signer_is_refused_whether_its_ca_or_itself_is_configured(
    site: Site,
) -> None:
    site.answers.crls = [SIGNING_CA.crl([SIGNER.certificate])]
    await site.add(signers=SIGNERS)
    assert (await site.refresh(signed(TWO))).status is Status.INVALID_SIGNING_CERT
    pinned = Settings(
        url=site.host.url(PATH), tls_ca=site.tls_ca, signers=pem(SIGNER.certificate).decode()
    )
    await site.database.write(lambda c: change_bundle(c, "b", pinned, NOW))
    # The bundle carries the CA's certificate: that it is the CA's is proved by its signature.
    assert (await site.refresh(signed(TWO))).status is Status.INVALID_SIGNING_CERT
    assert await site.trusted() == set()


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        (RevocationMode.SOFT_FAIL, Status.SUCCESS),
        (RevocationMode.HARD_FAIL, Status.INVALID_SIGNING_CERT),
    ],
)
async def test_revocation_that_cannot_be_learnt_is_the_policys(
    site: Site, mode: RevocationMode, status: Status
) -> None:
    site.policy = CertificatePolicy(revocation=mode)
    await site.add(signers=SIGNERS)
    outcome = await site.refresh(signed(TWO))
    assert outcome.status is status
    assert "revocation" in (outcome.detail or "")


async def test_what_waits_is_checked_again_for_its_signers_revocation(site: Site) -> None:
    site.answers.crls = [SIGNING_CA.crl()]
    await site.add(signers=SIGNERS, needs_approval=True)
    assert (await site.refresh(signed(ONE))).status is Status.STAGED
    await site.refresher.check_again("b", 1)
    site.answers.crls = [SIGNING_CA.crl([SIGNER.certificate])]
    with pytest.raises(BundleError) as refused:
        await site.refresher.check_again("b", 1)
    assert refused.value.status is Status.INVALID_SIGNING_CERT


async def test_stolen_signer_cannot_hide_who_revoked_it(site: Site) -> None:
    await site.add(signers=pem(SIGNER.certificate).decode())
    site.answers.crls = [SIGNING_CA.crl([SIGNER.certificate])]
    alone = Identity(SIGNER.certificate, (), SIGNER.key)
    outcome = await site.refresh(signed(TWO, by=alone))
    assert outcome.status is Status.INVALID_SIGNING_CERT
    assert "its issuer" in (outcome.detail or "")
    site.answers.issuers = [Ca.create("Signing CA", label="impostor").certificate]
    assert (await site.refresh()).status is Status.INVALID_SIGNING_CERT
    site.answers.issuers = [SIGNING_CA.certificate]
    assert "certificate-revoked" in ((await site.refresh()).detail or "")
    site.answers.crls = [SIGNING_CA.crl()]
    assert (await site.refresh()).status is Status.SUCCESS


async def test_pinned_signer_counts_and_its_ca_does_not(site: Site) -> None:
    await site.add(signers=pem(SIGNER.certificate).decode())
    assert (await site.refresh(signed(ONE))).status is Status.SUCCESS
    other = SIGNING_CA.issue(domain="other.example.org")
    assert (await site.refresh(signed(TWO, by=other))).status is Status.UNMATCHED_SIGNATURE


async def test_signature_is_noted_and_binds_nobody_where_no_signer_is_configured(
    site: Site,
) -> None:
    await site.add()
    outcome = await site.refresh(signed(ONE, by=Ca.create("Any").issue(domain="a.example.org")))
    assert outcome.status is Status.SUCCESS
    assert "no signer is configured" in (outcome.detail or "")
    assert await site.trusted() == {ONE}


async def test_content_of_an_earlier_version_is_rolled_back_signed_or_not(site: Site) -> None:
    await site.add()
    await site.refresh(write_p7b([ONE, TWO]))
    await site.refresh(write_p7b([ONE]))
    outcome = await site.refresh(write_p7b([ONE, TWO]))
    assert outcome.status is Status.ROLLED_BACK
    assert await site.trusted() == {ONE}
    assert (await site.refresh(allow_older=True)).status is Status.SUCCESS
    assert await site.trusted() == {ONE, TWO}


async def test_server_with_a_certificate_for_another_name_is_not_believed(site: Site) -> None:
    async with bundle_host("elsewhere.example") as (host, certificate):
        host.files[PATH] = write_p7b([TWO])
        await site.add(url=host.url(PATH), tls_ca=certificate.certificate_pem.decode())
        assert (await site.refresh()).status is Status.TLS_FAILED
    assert await site.trusted() == set()
    assert host.asked == []


async def test_server_whose_ca_is_unknown_is_not_believed(site: Site) -> None:
    """TB-007, T-08: and not because one of our anchors issued its certificate either."""
    site.host.files[PATH] = write_p7b([TWO])
    await site.add(tls_ca=None)
    assert (await site.refresh()).status is Status.TLS_FAILED
    assert site.host.asked == []


async def test_what_cannot_be_fetched_has_its_status(site: Site) -> None:
    await site.add()
    assert (await site.refresh()).status is Status.NOT_FOUND
    site.host.truncate.add(PATH)
    assert (await site.refresh(write_p7b([ONE]))).status is Status.UNREACHABLE
    site.host.hang.add(PATH)
    assert (await site.refresh()).status is Status.DOWNLOAD_TIMEOUT
    closed = Settings(url="https://localhost:1/", tls_ca=site.tls_ca)
    await site.database.write(lambda c: change_bundle(c, "b", closed, NOW))
    assert (await site.refresh()).status is Status.UNREACHABLE
    assert (await site.stored()).failures == 4


async def test_redirects_stay_in_https_and_out_of_our_network(site: Site) -> None:
    await site.add()
    site.host.redirects[PATH] = "/moved"
    site.host.files["/moved"] = write_p7b([ONE])
    assert (await site.refresh()).status is Status.SUCCESS
    for target in (
        "http://localhost/",
        "https://internal.example/",
        "https://127.0.0.1/",
        "https://[",
        PATH,
    ):
        site.host.redirects[PATH] = target
        assert (await site.refresh()).status is Status.UNREACHABLE, target
    assert await site.trusted() == {ONE}


async def test_compressed_content_is_not_unpacked(site: Site) -> None:
    await site.add()
    site.host.headers[PATH] = "Content-Encoding: gzip\r\n"
    assert (await site.refresh(write_p7b([ONE]))).status is Status.UNREACHABLE


async def test_bundle_to_be_approved_waits_and_only_what_was_seen_is_approved(site: Site) -> None:
    await site.add(needs_approval=True)
    first = await site.refresh(write_p7b([ONE]))
    assert (first.status, first.number) == (Status.STAGED, 1)
    assert await site.trusted() == set()
    assert (await site.refresh()).status is Status.UNCHANGED
    assert (await site.stored()).status is Status.STAGED
    second = await site.refresh(write_p7b([TWO]))
    assert second.number == 2
    with pytest.raises(Exception, match="version 2 is staged"):
        await site.database.write(lambda c: approve(c, "b", 1, [ONE], actor="me", now=NOW))
    done = await site.database.write(lambda c: approve(c, "b", 2, [TWO], actor="me", now=NOW))
    assert done.status is Status.SUCCESS
    assert await site.trusted() == {TWO}
    newest, oldest = await site.database.read(lambda c: history(c, "b"))
    assert (newest.approved_by, newest.in_force_at) == ("me", NOW)
    assert oldest.in_force_at is None


async def test_bundle_that_is_due_is_claimed_by_one(site: Site) -> None:
    await site.add()
    claim = claim_due
    names = await site.database.write(lambda c: claim(c, NOW, HOUR, limit=5))
    assert list(names) == ["b"]
    assert not await site.database.write(lambda c: claim(c, NOW, HOUR, limit=5))
    later = NOW + 2 * HOUR
    assert await site.database.write(lambda c: claim(c, later, HOUR, limit=5))


async def test_retries_are_ever_rarer_up_to_the_interval(site: Site) -> None:
    await site.add(interval=timedelta(minutes=30))
    waits = []
    for _ in range(5):
        await site.refresh()
        waits.append(((await site.stored()).due_at - NOW) / timedelta(minutes=1))
    assert waits == [5, 10, 20, 30, 30]


async def test_without_an_interval_a_bundle_is_refreshed_on_demand_only(site: Site) -> None:
    await site.add(interval=timedelta(0))
    assert (await site.stored()).due_at is None
    await site.refresh(write_p7b([ONE]))
    assert (await site.stored()).due_at is None


async def test_removed_bundle_takes_its_anchors_and_history_with_it(site: Site) -> None:
    await site.add()
    await site.refresh(write_p7b([ONE]))
    await site.database.write(lambda c: remove_bundle(c, "b"))
    assert await site.trusted() == set()
    await site.add()
    assert await site.database.read(lambda c: anchors_in_force(c, "b")) == ()
    assert await site.database.read(lambda c: history(c, "b")) == []


async def test_versions_name_their_octets(site: Site) -> None:
    await site.add()
    content = write_p7b([ONE])
    await site.refresh(content)
    [version] = await site.database.read(lambda c: history(c, "b"))
    assert version.sha256 == hashlib.sha256(content).hexdigest()
