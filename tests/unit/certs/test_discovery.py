from __future__ import annotations

import pytest

from certs.address import parse_address
from certs.discovery import Answer, CertQuery, Discovery, LdapQuery, ServersQuery
from certs.errors import Reason
from certs.evidence import Level
from certs.ldap_cert import Server
from tests.helpers.pki import Ca

ADDRESS = parse_address("DrJones@direct.example.org")
CERT = Ca.create().issue(address=str(ADDRESS)).certificate
ONE, TWO = Server("one.example.org", 389), Server("two.example.org", 10389)

NONE = Answer()
FOUND = Answer((CERT,))
SERVERS = Answer(servers=(ONE, TWO))
FAILED = Answer(failure="timed out")
NO_HOST = Answer(failure="no address", transient=False)


def play(*answers: Answer, address: str = str(ADDRESS)) -> tuple[Discovery, list[str]]:
    """The machine after these answers, and the questions it asked."""
    search = Discovery(parse_address(address))
    asked: list[str] = []
    for answer in answers:
        query = search.next_query()
        assert query is not None, asked
        asked.append(str(query))
        search.answered(query, answer)
    assert search.next_query() is None
    return search, asked


def test_levels_are_asked_in_order_and_ldap_server_by_server() -> None:
    """CD-002 and CD-043."""
    _, asked = play(NONE, NONE, SERVERS, NONE, NONE, NONE, NONE)
    assert asked == [
        "CERT drjones.direct.example.org.",
        "CERT direct.example.org.",
        "SRV _ldap._tcp.direct.example.org.",
        "ldap://one.example.org:389 mail=DrJones@direct.example.org",
        "ldap://two.example.org:10389 mail=DrJones@direct.example.org",
        "ldap://one.example.org:389 mail=direct.example.org",
        "ldap://two.example.org:10389 mail=direct.example.org",
    ]


@pytest.mark.parametrize(
    ("answers", "level"),
    [
        pytest.param([FOUND], Level.DNS_ADDRESS, id="address"),
        pytest.param([NONE, FOUND], Level.DNS_DOMAIN, id="domain"),
        pytest.param([FAILED, FOUND], Level.DNS_DOMAIN, id="failure-then-domain"),
        pytest.param([NONE, NONE, SERVERS, FOUND], Level.LDAP_ADDRESS, id="ldap-address"),
        pytest.param([NONE, NONE, SERVERS, FAILED, FOUND], Level.LDAP_ADDRESS, id="second-server"),
        pytest.param([NONE, NONE, SERVERS, NONE, NONE, FOUND], Level.LDAP_DOMAIN, id="ldap-domain"),
    ],
)
def test_first_certificate_ends_the_search(answers: list[Answer], level: Level) -> None:
    """CD-003 and CD-044."""
    search, _ = play(*answers)
    evidence = search.evidence()
    assert [(found.certificate, found.level) for found in evidence.found] == [(CERT, level)]
    assert evidence.failure is None
    assert [step.outcome for step in evidence.steps][-1] == "found"


def test_no_service_record_leaves_ldap_out() -> None:
    search, asked = play(NONE, NONE, NONE)
    assert len(asked) == 3
    assert search.evidence().failure is None


def test_server_that_failed_is_not_asked_again() -> None:
    search, asked = play(NONE, NONE, SERVERS, FAILED, NONE, NONE)
    assert asked[-1] == "ldap://two.example.org:10389 mail=direct.example.org"
    skipped = [step for step in search.steps if step.outcome.startswith("skipped")]
    assert [step.level for step in skipped] == [Level.LDAP_DOMAIN]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([FAILED, NONE, NONE], id="address-level"),
        pytest.param([NONE, NONE, FAILED], id="service-record"),
        pytest.param([NONE, NONE, Answer(servers=(ONE,)), FAILED], id="only-server"),
    ],
)
def test_nothing_found_and_a_failure_may_be_asked_again_later(answers: list[Answer]) -> None:
    """CD-006."""
    search, _ = play(*answers)
    assert search.evidence().failure is Reason.DIRECTORY_UNAVAILABLE


def test_server_without_an_address_is_certain_absence() -> None:
    """CD-042: D12 is told at once."""
    search, _ = play(NONE, NONE, Answer(servers=(ONE,)), NO_HOST)
    assert search.evidence().failure is None


def test_address_that_is_no_dns_name_starts_at_its_domain() -> None:
    """CD-021."""
    search, asked = play(NONE, NONE, address=f"{'a' * 64}@direct.example.org")
    assert asked[0] == "CERT direct.example.org."
    assert search.steps[0].outcome == "skipped: address is no DNS name"


def test_no_time_left_is_a_failure() -> None:
    search = Discovery(ADDRESS)
    search.next_query()
    search.gave_up()
    assert search.evidence().failure is Reason.DIRECTORY_UNAVAILABLE


def test_time_to_live_is_of_the_set_that_was_found() -> None:
    search, _ = play(Answer(ttl_s=5), Answer((CERT,), ttl_s=300))
    assert search.ttl_s == 300


def test_queries_say_their_kind() -> None:
    search = Discovery(ADDRESS)
    kinds = []
    for answer in (NONE, NONE, SERVERS, FOUND):
        query = search.next_query()
        assert query is not None
        kinds.append(type(query))
        search.answered(query, answer)
    assert kinds == [CertQuery, CertQuery, ServersQuery, LdapQuery]
