"""Each recipient of a message is served by the policy of its own domain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs.errors import DirectError, Reason
from certs.policy import CertificatePolicy, Profile, RevocationMode, loosest
from gateway import domains
from gateway.config import Trust
from gateway.database import SqlDatabase
from gateway.policies import DomainPolicies, default_policy
from tests.helpers.pki import NOW
from trust_bundles.policies import remove_policy, set_policy

DOMAIN = "direct.hillside.example"
DEFAULT = CertificatePolicy(accept_unwrapped=False)


async def of(database: SqlDatabase, policies: DomainPolicies) -> CertificatePolicy:
    return await database.read(lambda c: policies.policy_for(c, DOMAIN))


async def test_policy_is_above_the_profile_is_above_the_default(
    sqlite_database: SqlDatabase,
) -> None:
    policies, write = DomainPolicies(DEFAULT), sqlite_database.write
    assert await of(sqlite_database, policies) == DEFAULT
    await write(lambda c: domains.add_domain(c, DOMAIN, NOW, profile=Profile.AS_1_2))
    assert await of(sqlite_database, policies) == replace(DEFAULT, profile=Profile.AS_1_2)
    text = 'profile = "as-1.3"\nminimum_rsa_bits = 4096\n'
    assert await write(lambda c: set_policy(c, DOMAIN, text, actor="me", now=NOW)) is None
    assert await of(sqlite_database, policies) == replace(DEFAULT, minimum_rsa_bits=4096)
    assert await write(lambda c: set_policy(c, DOMAIN, "", actor="me", now=NOW)) == text
    assert await of(sqlite_database, policies) == replace(DEFAULT, profile=Profile.AS_1_2)
    assert await write(lambda c: remove_policy(c, DOMAIN)) == ""


async def test_wrong_policy_is_not_stored(sqlite_database: SqlDatabase) -> None:
    with pytest.raises(DirectError) as caught:
        await sqlite_database.write(
            lambda c: set_policy(c, DOMAIN, "colour = 1", actor="me", now=NOW)
        )
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert await of(sqlite_database, DomainPolicies(DEFAULT)) == DEFAULT


def test_default_is_the_configurations() -> None:
    trust = Trust(profile=Profile.AS_1_2, revocation=RevocationMode.HARD_FAIL)
    assert default_policy(trust) == CertificatePolicy(
        profile=Profile.AS_1_2, revocation=RevocationMode.HARD_FAIL
    )


def test_loosest_allows_what_any_allows_and_demands_what_all_demand() -> None:
    strict = CertificatePolicy(
        keys=frozenset({"rsa"}),
        digests=frozenset({"sha512"}),
        ciphers=frozenset({"aes256-gcm"}),
        minimum_rsa_bits=4096,
        accept_unwrapped=False,
        require_key_separation=True,
        required_policies=frozenset({"1.2.3"}),
        revocation=RevocationMode.HARD_FAIL,
    )
    other = replace(
        strict, keys=frozenset({"p256"}), allow_sha1=True, required_policies=frozenset()
    )
    assert loosest([strict]) == strict
    assert loosest([]) == CertificatePolicy()
    both = loosest([strict, other])
    assert both.keys == {"rsa", "p256"}
    assert (both.allow_sha1, both.required_policies) == (True, frozenset())
    assert (both.minimum_rsa_bits, both.require_key_separation) == (4096, True)
    assert both.revocation is RevocationMode.HARD_FAIL
    lenient = loosest([strict, CertificatePolicy(profile=Profile.AS_1_2)])
    assert (lenient.profile, lenient.accept_unwrapped) == (Profile.AS_1_2, True)
    assert (lenient.minimum_rsa_bits, lenient.require_key_separation) == (2048, False)
    assert lenient.revocation is RevocationMode.SOFT_FAIL
