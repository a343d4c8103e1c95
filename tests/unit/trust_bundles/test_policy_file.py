"""A policy is read with every mistake named by its line, and written so that it reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.errors import DirectError, Reason
from certs.policy import CIPHERS, DIGESTS, KEYS, CertificatePolicy, Profile, RevocationMode
from trust_bundles.policy_file import POLICY_OCTETS, read_policy, write_policy

DEFAULT = CertificatePolicy()
SAMPLE = """\
# what our community agreed on
profile = "as-1.2"
minimum_rsa_bits = 3072
keys = ["rsa", "p256"]
required_policies = [
  "1.3.6.1.4.1.41179.1.3",  # DirectTrust LoA 3
]
require_key_separation = true
revocation = "hard-fail"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(DirectError) as caught:
        read_policy(text, DEFAULT)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    return caught.value.detail.splitlines()


def test_what_is_said_is_taken_and_the_rest_is_the_default() -> None:
    assert read_policy(SAMPLE, CertificatePolicy(allow_3des=True)) == CertificatePolicy(
        profile=Profile.AS_1_2,
        minimum_rsa_bits=3072,
        keys=frozenset({"rsa", "p256"}),
        allow_3des=True,
        required_policies=frozenset({"1.3.6.1.4.1.41179.1.3"}),
        require_key_separation=True,
        revocation=RevocationMode.HARD_FAIL,
    )
    assert read_policy("", DEFAULT) == DEFAULT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("profile =", "line 1: Invalid value", id="syntax"),
        pytest.param('revocation = "soft-fail"\nkeys = ["rsa"', "line 2: ", id="end-of-document"),
        pytest.param("\n\ncolour = 1", "line 3: colour: no such setting", id="unknown"),
        pytest.param("[keys]\nrsa = 1", "line 1: keys: a list of texts", id="table"),
        pytest.param('\nprofile = "as-1.4"', "line 2: profile: one of", id="profile"),
        pytest.param("profile = 1", "line 1: profile: one of", id="profile-number"),
        pytest.param("minimum_rsa_bits = 512", "line 1: minimum_rsa_bits: from", id="bits"),
        pytest.param("minimum_rsa_bits = true", "line 1: minimum_rsa_bits: a number", id="bool"),
        pytest.param("allow_sha1 = 1", "line 1: allow_sha1: true or false", id="boolean"),
        pytest.param("inflated_octets = -1", "line 1: inflated_octets: from 0", id="octets"),
        pytest.param('keys = [\n"rsa",\n"dsa"]', "line 3: keys: 'dsa' is none", id="in-a-list"),
        pytest.param("digests = []", "line 1: digests: at least one", id="empty-list"),
        pytest.param("ciphers = [1]", "line 1: ciphers: a list of texts", id="list-of-numbers"),
        pytest.param(
            'required_policies = ["1.2.3",\n\n"1.02"]', "line 3: required_policies:", id="oid"
        ),
        pytest.param("x" * (POLICY_OCTETS + 1), "line 1: the file is over", id="size"),
        pytest.param("keys = " + "[" * 5000, "line 1: ", id="depth"),
    ],
)
def test_mistake_is_told_with_its_line(text: str, line: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(line)


def test_all_mistakes_are_told_at_once_in_their_order() -> None:
    found = problems('revocation = "no"\ncolour = 1\nprofile = "no"\n')
    assert [problem.partition(":")[0] for problem in found] == ["line 1", "line 2", "line 3"]


@given(
    st.builds(
        CertificatePolicy,
        profile=st.sampled_from(Profile),
        minimum_rsa_bits=st.integers(1024, 8192),
        keys=st.frozensets(st.sampled_from(sorted(KEYS)), min_size=1),
        digests=st.frozensets(st.sampled_from(sorted(DIGESTS)), min_size=1),
        ciphers=st.frozensets(st.sampled_from(sorted(CIPHERS)), min_size=1),
        allow_sha1=st.booleans(),
        allow_3des=st.booleans(),
        accept_unwrapped=st.booleans(),
        inflated_octets=st.integers(0, 1024**3),
        required_policies=st.frozensets(st.sampled_from(["1.2.3", "2.5.29.32.0"])),
        require_key_separation=st.booleans(),
        revocation=st.sampled_from(RevocationMode),
    )
)
def test_what_is_written_reads_the_same(policy: CertificatePolicy) -> None:
    assert read_policy(write_policy(policy), DEFAULT) == policy
