from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.smtp_limits import Census, Limits, Pace

LIMITS = Limits(
    connections=3,
    connections_per_ip=2,
    connections_per_minute=4,
    auth_failures_per_ip=2,
    auth_failures_per_user=3,
    auth_delay_s=5,
    auth_window_s=600,
    idle_s=300,
    data_s=600,
    data_grace_s=60,
    data_octets_per_s=1000,
)


def code_of(census: Census, peer: str, now_s: float = 0) -> str | None:
    reply = census.admit(peer, now_s)
    return None if reply is None else f"{reply.code} {reply.status}"


def fail(census: Census, peer: str) -> None:
    census.tried(peer, "anna", 0, right=False)


def test_connections_of_one_client_are_limited() -> None:
    census = Census(LIMITS)
    assert [code_of(census, "192.0.2.1") for _ in range(3)] == [None, None, "421 4.7.0"]
    assert code_of(census, "192.0.2.2") is None


def test_connections_of_all_are_limited() -> None:
    census = Census(LIMITS)
    peers = [f"192.0.2.{n}" for n in range(4)]
    assert [code_of(census, peer) for peer in peers] == [None, None, None, "421 4.3.2"]


def test_who_leaves_makes_room() -> None:
    census = Census(LIMITS)
    for _ in range(2):
        census.admit("192.0.2.1", 0)
    census.leave("192.0.2.1")
    assert code_of(census, "192.0.2.1") is None


def test_new_connections_of_one_client_are_limited_in_each_minute() -> None:
    census = Census(LIMITS)
    for _ in range(4):
        assert code_of(census, "192.0.2.1") is None
        census.leave("192.0.2.1")
    assert code_of(census, "192.0.2.1", 59) == "421 4.7.0"
    assert code_of(census, "192.0.2.1", 60) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("unknown", "unknown", True),
    ],
)
def test_who_is_one_client(one: str, other: str, *, same: bool) -> None:
    census = Census(LIMITS)
    fail(census, one)
    fail(census, other)
    assert census.is_put_off(one, 0) is same


def test_who_fails_to_authenticate_too_often_is_put_off_for_a_while() -> None:
    census = Census(LIMITS)
    fail(census, "192.0.2.1")
    assert not census.is_put_off("192.0.2.1", 0)
    fail(census, "192.0.2.1")
    assert census.is_put_off("192.0.2.1", 599)
    assert not census.is_put_off("192.0.2.2", 599)
    assert not census.is_put_off("192.0.2.1", 600)


def test_a_user_guessed_at_from_many_addresses_is_slowed_and_not_shut_out() -> None:
    census = Census(LIMITS)
    assert [census.delay_s(name, 0) for name in ("anna", "Anna", "ANNA", "anna")] == [0, 0, 0, 5]
    assert not census.is_put_off("192.0.2.9", 0)
    assert census.delay_s("berta", 0) == 0
    assert census.delay_s("anna", 600) == 0


def test_a_user_who_comes_in_often_is_not_slowed() -> None:
    census = Census(LIMITS)
    for _ in range(10):
        assert census.delay_s("anna", 0) == 0
        census.tried("192.0.2.1", "anna", 0, right=True)
    # Begun in one window and ended in the next: that makes nobody better off.
    census.tried("192.0.2.1", "anna", 600, right=True)
    assert [census.delay_s("anna", 600) for _ in range(4)] == [0, 0, 0, 5]


@pytest.mark.parametrize(
    ("processes", "of_client", "of_user"), [(1, 20, 50), (4, 5, 12), (64, 1, 1)]
)
def test_processes_share_the_tries_at_passwords(
    processes: int, of_client: int, of_user: int
) -> None:
    shared = Limits().shared_by(processes)
    assert (shared.auth_failures_per_ip, shared.auth_failures_per_user) == (of_client, of_user)
    assert shared.connections == Limits().connections


def test_an_ipv6_site_counts_as_two_clients() -> None:
    census = Census(replace(LIMITS, connections=100))
    codes = [code_of(census, f"2001:db8:1:{n}::1") for n in range(5)]
    assert codes == [None] * 4 + ["421 4.7.0"]
    assert code_of(census, "2001:db8:2::1") is None
    census.leave("2001:db8:1:0::1")
    assert code_of(census, "2001:db8:1:9::1") is None


def test_there_is_a_crowd_where_few_places_are_left() -> None:
    census = Census(replace(LIMITS, connections=5, crowd=0.8))
    for n in range(4):
        assert not census.crowded
        census.admit(f"192.0.2.{n}", 0)
    assert census.crowded
    census.leave("192.0.2.0")
    assert not census.crowded


@pytest.mark.parametrize(
    ("octets", "now_s", "wait_s"),
    [
        pytest.param(0, 0, 60, id="grace"),
        pytest.param(0, 59, 1, id="grace-nearly-over"),
        pytest.param(0, 61, -1, id="too-slow"),
        pytest.param(100_000, 60, 100, id="each-octet-earns-time"),
        pytest.param(10_000_000, 0, 300, id="no-longer-than-idle"),
        pytest.param(10_000_000, 599, 1, id="no-longer-than-in-all"),
    ],
)
def test_the_deadline_of_content_moves_with_it(octets: int, now_s: float, wait_s: float) -> None:
    assert Pace(LIMITS, 0).wait_s(octets, now_s) == wait_s
