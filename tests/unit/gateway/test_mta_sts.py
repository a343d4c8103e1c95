from __future__ import annotations

import pytest

from certs.errors import DirectError, Reason
from gateway.mta_sts import MAX_AGE_S, Mode, StsPolicy, parse_policy, policy_id, policy_url

GOOD = (
    "version: STSv1\r\nmode: enforce\r\nmx: mx1.b.example\r\nmx: *.B.example\r\nmax_age: 86400\r\n"
)


@pytest.mark.parametrize("line_end", ["\r\n", "\n"], ids=["crlf", "lf"])
def test_a_policy(line_end: str) -> None:
    policy = parse_policy(GOOD.replace("\r\n", line_end).encode())
    assert policy == StsPolicy(Mode.ENFORCE, ("mx1.b.example", "*.b.example"), 86400)


def test_unknown_fields_and_repetitions_are_passed_over() -> None:
    text = GOOD + "mode: none\r\nfoo: bar\r\n\r\nnonsense\r\n"
    assert parse_policy(text.encode()).mode is Mode.ENFORCE


def test_a_policy_of_none_needs_no_hosts() -> None:
    text = b"version: STSv1\nmode: none\nmax_age: 1\n"
    assert parse_policy(text) == StsPolicy(Mode.NONE, (), 1)


def test_a_policy_lives_a_year_at_most() -> None:
    assert parse_policy(GOOD.replace("86400", "9999999999").encode()).max_age_s == MAX_AGE_S


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("<html>not found</html>", id="html"),
        pytest.param(GOOD.replace("STSv1", "STSv2"), id="version"),
        pytest.param(GOOD.replace("enforce", "force"), id="mode"),
        pytest.param(GOOD.replace("86400", "-1"), id="negative-age"),
        pytest.param(GOOD.replace("86400", "9" * 11), id="endless-age"),
        pytest.param(GOOD.replace("max_age: 86400", ""), id="no-age"),
        pytest.param(GOOD.replace("mx1.b.example", "mx 1"), id="bad-host"),
        pytest.param(GOOD.replace("mx1.b.example", "mx.*.b.example"), id="bad-wildcard"),
        pytest.param("version: STSv1\nmode: enforce\nmax_age: 1\n", id="no-host"),
        pytest.param(GOOD + "mx: a.example\r\n" * 100, id="too-many-hosts"),
    ],
)
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(DirectError) as caught:
        parse_policy(text.encode())
    assert caught.value.reason is Reason.DIRECTORY_UNAVAILABLE


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mx1.b.example", True),
        ("MX1.B.example.", True),
        ("anything.b.example", True),
        ("two.labels.b.example", False),
        ("b.example", False),
        ("mx1.b.example.evil.example", False),
        ("mx.c.example", False),
    ],
)
def test_which_hosts_a_policy_allows(host: str, *, allowed: bool) -> None:
    assert parse_policy(GOOD.encode()).allows(host) is allowed


@pytest.mark.parametrize(
    ("records", "identity"),
    [
        (["v=STSv1; id=20260102T120000;"], "20260102T120000"),
        (["v=STSv1;id=1"], "1"),
        (["v=spf1 -all", "v=STSv1; id=1; x=y"], "1"),
        ([], None),
        (["v=STSv1"], None),
        (["v=STSv1; id="], None),
        (["v=STSv1; id=a-b"], None),
        (["v=STSv1; id=1", "v=STSv1; id=2"], None),
        (["v=STSv11; id=1"], None),
    ],
)
def test_the_id_in_dns(records: list[str], identity: str | None) -> None:
    assert policy_id(records) == identity


def test_where_the_policy_is() -> None:
    assert policy_url("b.example") == "https://mta-sts.b.example/.well-known/mta-sts.txt"
