from __future__ import annotations

import os
from datetime import timedelta
from functools import partial

import pytest

from certs import keys, rollover
from certs.address import parse_address
from certs.binding import Binding
from certs.errors import DirectError, Reason
from certs.identity import Identity
from certs.issue import Use
from certs.pkcs12 import KeyBundle
from certs.ports import Database
from certs.stored_keys import StoredKeys
from tests.helpers.pki import NOW, Ca, private_key_of

KEK = os.urandom(32)
ROOT = Ca.create("Root")
MIDDLE = Ca.create("Middle", parent=ROOT)
ADDRESS = parse_address("DrJones@direct.example.org")


def bundle_of(identity: Identity) -> KeyBundle:
    return KeyBundle(private_key_of(identity), identity.certificate, identity.chain)


OWN = MIDDLE.issue(address=str(ADDRESS))
DOMAIN = ROOT.issue(domain=ADDRESS.domain)
OLD = ROOT.expired(address=str(ADDRESS))
SIGNS = ROOT.issue(address=str(ADDRESS), uses=frozenset({Use.SIGN}), label="signs")


async def keep(database: Database, *identities: Identity) -> StoredKeys:
    for identity in identities:
        subject = ADDRESS.domain if identity is DOMAIN else ADDRESS
        bundle = bundle_of(identity)
        work = partial(keys.add, bundle=bundle, subject=subject, kek=KEK, now=NOW)
        await database.write(work)
    return StoredKeys(database=database, keks=lambda: [KEK])


async def test_own_key_signs_alone_where_the_domain_has_one_too(database: Database) -> None:
    stored = await keep(database, DOMAIN, OWN, OLD)
    signing = await stored.signing(ADDRESS, NOW)
    assert [identity.certificate for identity in signing] == [OWN.certificate]
    assert signing[0].chain == (MIDDLE.certificate,)


async def test_old_keys_still_open_mail(database: Database) -> None:
    """AS-071."""
    stored = await keep(database, OLD, OWN, DOMAIN, SIGNS)
    opening = await stored.decrypting([ADDRESS])
    found = [identity.certificate for identity in opening]
    assert found == [OWN.certificate, OLD.certificate, DOMAIN.certificate]
    assert await stored.decrypting([parse_address("x@other.example.org")]) == []


async def test_retired_key_signs_no_more_but_opens(database: Database) -> None:
    stored = await keep(database, OWN)
    listed = await database.read(keys.list_identities)
    assert [(own.subject, own.binding, own.uses) for own in listed] == [
        (ADDRESS.key, Binding.ADDRESS, frozenset(Use))
    ]
    assert await database.write(lambda c: rollover.retire(c, listed[0].sha256, NOW, NOW))
    assert not await database.write(lambda c: rollover.retire(c, listed[0].sha256, NOW, NOW))
    assert await stored.signing(ADDRESS, NOW) == []
    assert len(await stored.decrypting([ADDRESS])) == 1


async def test_opened_identities_are_kept(database: Database) -> None:
    stored = await keep(database, OWN)
    assert (await stored.signing(ADDRESS, NOW))[0] is (await stored.signing(ADDRESS, NOW))[0]


async def test_wrong_key_encryption_key_opens_nothing(database: Database) -> None:
    await keep(database, OWN)
    with pytest.raises(DirectError) as caught:
        await StoredKeys(database=database, keks=lambda: [os.urandom(32)]).signing(ADDRESS, NOW)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_exported_key_is_the_one_imported(database: Database) -> None:
    await keep(database, OWN)
    sha256 = (await database.read(keys.list_identities))[0].sha256
    exported = await database.read(lambda c: keys.export(c, sha256, keks=[KEK]))
    assert exported.certificate == OWN.certificate
    assert exported.key.public_key() == OWN.certificate.public_key()
    with pytest.raises(DirectError) as caught:
        await database.read(lambda c: keys.export(c, "00", keks=[KEK]))
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_listing_may_be_narrowed(sqlite_database: Database) -> None:
    await keep(sqlite_database, OWN, DOMAIN)
    listed = await sqlite_database.read(lambda c: keys.list_identities(c, [ADDRESS.domain]))
    assert [own.certificate for own in listed] == [DOMAIN.certificate]


@pytest.mark.parametrize(
    ("identity", "subject", "reason"),
    [
        pytest.param(
            OWN, "direct.example.org", Reason.CERTIFICATE_NOT_BOUND, id="address-as-domain"
        ),
        pytest.param(DOMAIN, ADDRESS, Reason.CERTIFICATE_NOT_BOUND, id="domain-as-address"),
        pytest.param(
            ROOT.issue(address=str(ADDRESS), key="rsa1024"),
            ADDRESS,
            Reason.CERTIFICATE_UNFIT,
            id="short-key",
        ),
    ],
)
async def test_unusable_certificate_is_not_kept(
    sqlite_database: Database, identity: Identity, subject: object, reason: Reason
) -> None:
    with pytest.raises(DirectError) as caught:
        await sqlite_database.write(
            lambda c: keys.add(c, bundle_of(identity), subject=subject, kek=KEK, now=NOW)  # type: ignore[arg-type]  # parametrised
        )
    assert caught.value.reason is reason


async def test_key_and_certificate_must_belong_together(sqlite_database: Database) -> None:
    wrong = KeyBundle(private_key_of(DOMAIN), OWN.certificate, ())
    with pytest.raises(DirectError) as caught:
        await sqlite_database.write(lambda c: keys.add(c, wrong, subject=ADDRESS, kek=KEK, now=NOW))
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_same_certificate_is_kept_once(sqlite_database: Database) -> None:
    await keep(sqlite_database, OWN)
    with pytest.raises(DirectError) as caught:
        await keep(sqlite_database, OWN)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


async def test_uses_may_be_narrowed(sqlite_database: Database) -> None:
    await sqlite_database.write(
        lambda c: keys.add(
            c, bundle_of(OWN), subject=ADDRESS, kek=KEK, now=NOW, uses=frozenset({Use.ENCRYPT})
        )
    )
    stored = StoredKeys(database=sqlite_database, keks=lambda: [KEK])
    assert await stored.signing(ADDRESS, NOW) == []
    assert len(await stored.decrypting([ADDRESS])) == 1


async def test_certificate_does_not_sign_before_its_time(sqlite_database: Database) -> None:
    stored = await keep(sqlite_database, OWN)
    assert await stored.signing(ADDRESS, NOW - timedelta(days=60)) == []
