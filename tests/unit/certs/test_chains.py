from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import ocsp

from certs.address import parse_address
from certs.cache import DatabaseArchive, list_entries
from certs.directory import LiveDirectory, open_directory
from certs.errors import DirectError, Reason
from certs.evidence import Evidence, Found, Level
from certs.issue import Locations
from certs.policy import CertificatePolicy
from certs.ports import Database, Kind, Stored
from tests.helpers.pki import NOW, Ca, der, pem
from tests.helpers.web import Exchange, Web, web
from trust_bundles.decision import Decision, decide
from trust_bundles.policy import Purpose

ADDRESS = parse_address("drjones@direct.example.org")
POLICY = CertificatePolicy()
ROOT = Ca.create("Root")


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Web]:
    async with web() as served:
        yield served


@pytest_asyncio.fixture
async def directory() -> AsyncIterator[LiveDirectory]:
    async with open_directory(resolver=("127.0.0.1", 1), allow_private=True) as opened:
        yield opened


async def decided(
    directory: LiveDirectory, *certificates: x509.Certificate, anchors: tuple[Ca, ...] = (ROOT,)
) -> Decision:
    found = tuple(Found(certificate, Level.DNS_ADDRESS) for certificate in certificates)
    trusted = [ca.certificate for ca in anchors]
    evidence = await directory.complete(Evidence(ADDRESS, found), trusted, now=NOW, policy=POLICY)
    return decide(ADDRESS, evidence, trusted, purpose=Purpose.ENCRYPT, now=NOW)


@pytest.mark.parametrize("form", ["der", "pem", "p7c"])
async def test_missing_intermediate_is_fetched(
    form: str, site: Web, directory: LiveDirectory
) -> None:
    """AS-082, D18 and d17."""
    middle = Ca.create("Middle", parent=ROOT)
    site.files["/middle"] = {
        "der": der(middle.certificate),
        "pem": pem(middle.certificate),
        "p7c": pkcs7.serialize_certificates([ROOT.certificate, middle.certificate], Encoding.DER),
    }[form]
    where = Locations(issuers=(site.url("/gone"), site.url("/middle")))
    leaf = middle.issue(address=str(ADDRESS), locations=where).certificate
    decision = await decided(directory, leaf)
    assert decision.reason is None
    assert decision.verdicts[0].path == (leaf, middle.certificate)


async def test_two_levels_are_climbed(site: Web, directory: LiveDirectory) -> None:
    upper = Ca.create("Upper", parent=ROOT)
    lower = Ca.create("Lower", parent=upper, locations=Locations(issuers=(site.url("/upper"),)))
    site.files |= {"/upper": der(upper.certificate), "/lower": der(lower.certificate)}
    where = Locations(issuers=(site.url("/lower"),))
    leaf = lower.issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf)).reason is None


async def test_issuer_and_failure_to_fetch_it_are_remembered(
    site: Web, directory: LiveDirectory
) -> None:
    """Whoever sends mail that names a dead server makes us ask it once a minute, not each time."""
    middle = Ca.create("Middle", parent=ROOT)
    site.files["/middle"] = der(middle.certificate)
    where = Locations(issuers=(site.url("/gone"), site.url("/middle")))
    for label in ("one", "two"):
        leaf = middle.issue(address=str(ADDRESS), locations=where, label=label).certificate
        assert (await decided(directory, leaf)).reason is None
    assert site.asked == ["/gone", "/middle"]


async def test_chain_that_does_not_end_is_not_climbed(site: Web, directory: LiveDirectory) -> None:
    """AS-082: at most five levels."""
    cas = [Ca.create("Level 0")]
    for number in range(1, 10):
        where = Locations(issuers=(site.url(f"/{number - 1}"),))
        cas.append(Ca.create(f"Level {number}", parent=cas[-1], locations=where))
        site.files[f"/{number - 1}"] = der(cas[number - 1].certificate)
    where = Locations(issuers=(site.url("/9"),))
    site.files["/9"] = der(cas[9].certificate)
    leaf = cas[9].issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf)).reason is Reason.NOT_TRUSTED
    assert site.asked == ["/9", "/8", "/7", "/6", "/5"]


async def test_self_issued_certificate_is_no_step_upwards(
    site: Web, directory: LiveDirectory
) -> None:
    """R-035."""
    other = Ca.create("Other")
    where = Locations(issuers=(site.url("/other"),))
    own = Ca.create("Other", label="Other", locations=where)
    site.files["/other"] = der(own.certificate)
    leaf = Ca(own.certificate, other.key).issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf)).reason is Reason.NOT_TRUSTED
    assert site.asked == ["/other"]


async def test_nothing_is_fetched_where_the_issuer_is_an_anchor(
    site: Web, directory: LiveDirectory
) -> None:
    """AS-083 and T-26."""
    where = Locations(issuers=(site.url("/root"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf)).reason is None
    assert site.asked == []


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param({"address": "other@direct.example.org"}, id="not-bound"),
        pytest.param({"address": str(ADDRESS), "not_after": NOW - timedelta(days=1)}, id="expired"),
    ],
)
async def test_nothing_is_fetched_for_what_will_be_refused_anyway(
    leaf: dict[str, Any], site: Web, directory: LiveDirectory
) -> None:
    middle = Ca.create("Middle", parent=ROOT)
    where = Locations(crls=(site.url("/crl"),), issuers=(site.url("/middle"),))
    await decided(directory, middle.issue(**leaf, locations=where).certificate)
    assert site.asked == []


async def test_what_was_gathered_for_another_address_is_not_taken(
    site: Web, directory: LiveDirectory
) -> None:
    """A message in a stranger's name must not switch off revocation for the true owner."""
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/crl"] = ROOT.crl([leaf]).public_bytes(Encoding.DER)
    found = (Found(leaf, Level.DNS_ADDRESS),)
    stranger = Evidence(parse_address("stranger@direct.example.org"), found)
    await directory.complete(stranger, [ROOT.certificate], now=NOW, policy=POLICY)
    assert (await decided(directory, leaf)).reason is Reason.CERTIFICATE_REVOKED


async def test_anchor_of_the_same_name_and_another_key_does_not_stop_the_search(
    site: Web, directory: LiveDirectory
) -> None:
    middle = Ca.create("Middle", parent=ROOT)
    namesake = Ca.create("Middle", label="another key")
    site.files["/middle"] = der(middle.certificate)
    where = Locations(issuers=(site.url("/middle"),))
    leaf = middle.issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf, anchors=(namesake, ROOT))).reason is None


async def test_revocation_is_not_fetched_without_a_path(
    site: Web, directory: LiveDirectory
) -> None:
    where = Locations(crls=(site.url("/crl"),), ocsp=(site.url("/ocsp"),))
    leaf = Ca.create("Other").issue(address=str(ADDRESS), locations=where).certificate
    assert (await decided(directory, leaf)).reason is Reason.NOT_TRUSTED
    assert site.asked == []


async def test_revoked_in_the_list_is_refused_and_the_others_stay(
    site: Web, directory: LiveDirectory
) -> None:
    """D17."""
    where = Locations(crls=(site.url("/crl"),))
    good, bad = (
        ROOT.issue(address=str(ADDRESS), locations=where, label=label).certificate
        for label in ("good", "bad")
    )
    site.files["/crl"] = ROOT.crl([bad]).public_bytes(Encoding.DER)
    decision = await decided(directory, bad, good)
    assert decision.certificates == (good,)
    assert decision.verdicts[0].reason is Reason.CERTIFICATE_REVOKED
    assert site.asked == ["/crl"]


async def test_responder_is_asked_where_there_is_no_list(
    site: Web, directory: LiveDirectory
) -> None:
    where = Locations(ocsp=(site.url("/ocsp"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate

    async def revoked(exchange: Exchange) -> None:
        assert ocsp.load_der_ocsp_request(exchange.body).serial_number == leaf.serial_number
        answer = ROOT.ocsp(leaf, ocsp.OCSPCertStatus.REVOKED)
        await exchange.answer(answer.public_bytes(Encoding.DER))

    site.handlers["/ocsp"] = revoked
    assert (await decided(directory, leaf)).reason is Reason.CERTIFICATE_REVOKED


async def test_last_good_list_serves_while_the_server_is_away(
    site: Web, directory: LiveDirectory
) -> None:
    """K-06."""
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/crl"] = ROOT.crl([leaf]).public_bytes(Encoding.DER)
    found = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),))
    anchors = [ROOT.certificate]
    await directory.complete(found, anchors, now=NOW, policy=POLICY)
    del site.files["/crl"]
    later = NOW + timedelta(days=7)
    evidence = await directory.complete(found, anchors, now=later, policy=POLICY)
    assert evidence.revocation.unreachable == (site.url("/crl"),)
    decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=later)
    assert decision.reason is Reason.CERTIFICATE_REVOKED


@pytest.mark.parametrize("age", [timedelta(minutes=10), timedelta(days=7)])
async def test_list_survives_a_restart(
    age: timedelta, site: Web, sqlite_database: Database
) -> None:
    """K-06: while it is fresh nobody is asked; later it serves where nobody answers."""
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/crl"] = ROOT.crl([leaf]).public_bytes(Encoding.DER)
    found, anchors = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),)), [ROOT.certificate]
    archive = DatabaseArchive(sqlite_database)
    silent = ("127.0.0.1", 1)
    for now in (NOW, NOW + age):
        async with open_directory(
            resolver=silent, allow_private=True, archive=archive
        ) as directory:
            evidence = await directory.complete(found, anchors, now=now, policy=POLICY)
        decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=now)
        assert decision.reason is Reason.CERTIFICATE_REVOKED
        site.files.clear()
    expected = (site.url("/crl"),) if age > timedelta(hours=1) else ()
    assert evidence.revocation.unreachable == expected


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(ROOT.crl(this_update=NOW - timedelta(days=2)), id="older"),
        pytest.param(Ca.create("Root", label="forger").crl(), id="signed-by-another"),
    ],
)
async def test_list_is_not_replaced_by_a_worse_one(
    served: x509.CertificateRevocationList, site: Web, directory: LiveDirectory
) -> None:
    """CRLs come by http: whoever sits on the way may answer with old ones, or his own."""
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    found, anchors = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),)), [ROOT.certificate]
    site.files["/crl"] = ROOT.crl([leaf]).public_bytes(Encoding.DER)
    await directory.complete(found, anchors, now=NOW, policy=POLICY)
    site.files["/crl"] = served.public_bytes(Encoding.DER)
    later = NOW + timedelta(hours=2)
    evidence = await directory.complete(found, anchors, now=later, policy=POLICY)
    assert evidence.revocation.unreachable == (site.url("/crl"),)
    decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=later)
    assert decision.reason is Reason.CERTIFICATE_REVOKED


async def test_list_of_an_unknown_key_is_asked_for_again_soon(
    site: Web, directory: LiveDirectory
) -> None:
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    found, anchors = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),)), [ROOT.certificate]
    forger = Ca.create("Root", label="forger")
    for crl, minutes in ((forger.crl(), 0), (ROOT.crl([leaf]), 2)):
        site.files["/crl"] = crl.public_bytes(Encoding.DER)
        now = NOW + timedelta(minutes=minutes)
        evidence = await directory.complete(found, anchors, now=now, policy=POLICY)
    decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=now)
    assert decision.reason is Reason.CERTIFICATE_REVOKED


async def test_responders_answer_survives_a_restart(site: Web, sqlite_database: Database) -> None:
    """While it is fresh nobody is asked; a revocation counts however old it is (AS-088)."""
    where = Locations(ocsp=(site.url("/ocsp"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    answer = ROOT.ocsp(leaf, ocsp.OCSPCertStatus.REVOKED).public_bytes(Encoding.DER)
    site.files["/ocsp"] = answer
    reasons = [
        await reason_after_restart(sqlite_database, leaf, NOW + age)
        for age in (timedelta(0), timedelta(minutes=30), timedelta(days=7))
    ]
    assert reasons == [Reason.CERTIFICATE_REVOKED] * 3
    # Its hour is over by the third time only.
    assert site.asked == ["/ocsp", "/ocsp"]


async def test_issuer_survives_a_restart(site: Web, sqlite_database: Database) -> None:
    middle = Ca.create("Middle", parent=ROOT)
    where = Locations(issuers=(site.url("/middle"),))
    leaf = middle.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/middle"] = der(middle.certificate)
    assert await reason_after_restart(sqlite_database, leaf, NOW) is None
    site.files.clear()
    assert await reason_after_restart(sqlite_database, leaf, NOW + timedelta(hours=1)) is None
    assert site.asked == ["/middle"]
    # A day on it is asked for again; the last good one serves where nobody answers.
    assert await reason_after_restart(sqlite_database, leaf, NOW + timedelta(days=2)) is None
    assert site.asked == ["/middle", "/middle"]


async def test_what_led_to_no_anchor_is_not_written_down(
    site: Web, sqlite_database: Database
) -> None:
    """Anybody can send mail that names an issuer: it may not fill the database."""
    stranger = Ca.create("Stranger")
    middle = Ca.create("Middle", parent=stranger)
    where = Locations(issuers=(site.url("/middle"),), crls=(site.url("/crl"),))
    leaf = middle.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/middle"] = der(middle.certificate)
    assert await reason_after_restart(sqlite_database, leaf, NOW) is Reason.NOT_TRUSTED
    assert site.asked == ["/middle"]
    assert await sqlite_database.read(lambda c: list_entries(c, 10)) == []


async def test_list_in_use_is_fetched_before_it_runs_out(
    site: Web, directory: LiveDirectory
) -> None:
    """A message that comes when the hour is over finds the new list there already."""
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    found, anchors = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),)), [ROOT.certificate]
    site.files["/crl"] = ROOT.crl().public_bytes(Encoding.DER)
    await directory.complete(found, anchors, now=NOW, policy=POLICY)
    await directory.fetch_ahead(NOW + timedelta(minutes=30))
    assert site.asked == ["/crl"]
    later = NOW + timedelta(minutes=70)
    site.files["/crl"] = ROOT.crl([leaf], this_update=NOW).public_bytes(Encoding.DER)
    await directory.fetch_ahead(later)
    assert site.asked == ["/crl", "/crl"]
    site.files.clear()
    evidence = await directory.complete(found, anchors, now=later, policy=POLICY)
    assert evidence.revocation.unreachable == ()
    decision = decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=later)
    assert decision.reason is Reason.CERTIFICATE_REVOKED


async def test_list_that_nobody_asks_for_any_more_is_left_alone(
    site: Web, directory: LiveDirectory
) -> None:
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/crl"] = ROOT.crl().public_bytes(Encoding.DER)
    found = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),))
    await directory.complete(found, [ROOT.certificate], now=NOW, policy=POLICY)
    await directory.fetch_ahead(NOW + timedelta(days=2))
    assert site.asked == ["/crl"]


class FullDisk:
    """An archive that can be read no more than written."""

    async def last_good(self, kind: Kind, key: str) -> Stored | None:
        raise DirectError(Reason.INTERNAL, "disk full")

    async def store(self, kind: Kind, key: str, stored: Stored) -> None:
        raise DirectError(Reason.INTERNAL, "disk full")


async def test_broken_archive_takes_no_answer_away(site: Web) -> None:
    where = Locations(crls=(site.url("/crl"),))
    leaf = ROOT.issue(address=str(ADDRESS), locations=where).certificate
    site.files["/crl"] = ROOT.crl([leaf]).public_bytes(Encoding.DER)
    silent = ("127.0.0.1", 1)
    async with open_directory(resolver=silent, allow_private=True, archive=FullDisk()) as opened:
        assert (await decided(opened, leaf)).reason is Reason.CERTIFICATE_REVOKED


async def reason_after_restart(
    database: Database, leaf: x509.Certificate, now: datetime
) -> Reason | None:
    found, anchors = Evidence(ADDRESS, (Found(leaf, Level.DNS_ADDRESS),)), [ROOT.certificate]
    archive, silent = DatabaseArchive(database), ("127.0.0.1", 1)
    async with open_directory(resolver=silent, allow_private=True, archive=archive) as directory:
        evidence = await directory.complete(found, anchors, now=now, policy=POLICY)
    return decide(ADDRESS, evidence, anchors, purpose=Purpose.ENCRYPT, now=now).reason
