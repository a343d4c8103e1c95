from __future__ import annotations

import io

import pytest

from certs.cms.algorithms import Digest
from certs.errors import Reason
from certs.policy import CertificatePolicy
from gateway.entity import SignedEntity
from gateway.header import HEADER_OCTETS

INNER = b"From: dr.rivera@direct.example.org\r\nSubject: Hello\r\n\r\nBody\r\n" * 60
SHORT = b"Content-Type: message/rfc822\r\n\r\n"
LONG = b"Content-Type: message/rfc822\r\nX-Note: " + b"n" * 5000 + b"\r\n\r\n"


def entity_of(octets: bytes, size: int) -> tuple[SignedEntity, bytes]:
    out = io.BytesIO()
    policy = CertificatePolicy()
    entity = SignedEntity(
        out, outer=(), policy=policy, digests=(Digest.SHA256,), canonical=False, both=False
    )
    for start in range(0, len(octets), size):
        entity.feed(memoryview(octets)[start : start + size])
    entity.finish()
    return entity, out.getvalue()


@pytest.mark.parametrize("header", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 2047, 2048, 2049, 100_000])
def test_the_wrapper_is_taken_off_wherever_the_pieces_are_cut(header: bytes, size: int) -> None:
    entity, written = entity_of(header + INNER, size)
    assert entity.problem is None
    assert entity.wrapped
    assert written == INNER
    assert entity.size == len(INNER)


@pytest.mark.parametrize("size", [1000, HEADER_OCTETS, 10 * HEADER_OCTETS])
def test_a_wrapper_longer_than_its_limit_is_a_problem(size: int) -> None:
    header = b"Content-Type: message/rfc822\r\nX-Note: " + b"n" * HEADER_OCTETS + b"\r\n\r\n"
    entity, written = entity_of(header + INNER, size)
    assert entity.problem is not None
    assert entity.problem.reason is Reason.MESSAGE_MALFORMED
    assert written == b""


def test_a_wrapper_without_end_is_a_problem() -> None:
    entity, _ = entity_of(b"Content-Type: message/rfc822\r\n", 10)
    assert entity.problem is not None
    assert entity.problem.reason is Reason.MESSAGE_MALFORMED
