"""Messages of any size take the same little memory, both ways, in every form."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from certs.cms.algorithms import ContentEncryption
from gateway import smime
from gateway.message import prepare
from gateway.seal_options import SealOptions
from tests.helpers import cms_builder as cms
from tests.helpers.pki import NOW
from tests.helpers.sealed import BOUNDARY, MESSAGE, OUTER, identity

SIZE = 16 * 1024 * 1024
LIMIT = 4 * 1024 * 1024
ALICE = identity("p256")
BOB = identity("rsa2048", "bob")


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    path = tmp_path / "clear"
    line = b"0123456789abcdef" * 4 + b"\r\n"
    path.write_bytes(MESSAGE + line * (SIZE // len(line)))
    return path


def seal(clear: Path, sealed: Path, options: SealOptions) -> None:
    with clear.open("rb") as content, sealed.open("wb") as out:
        smime.seal(
            content,
            out,
            outer=OUTER,
            signers=[ALICE],
            recipients=[BOB.certificate],
            boundary=BOUNDARY,
            now=NOW,
            options=options,
        )


def unseal(sealed: Path, opened: Path) -> None:
    with sealed.open("rb") as message, opened.open("wb") as out:
        smime.unseal(message, out, identities=[BOB])


@pytest.mark.parametrize(
    "cipher", [ContentEncryption.AES256_CBC, ContentEncryption.AES256_GCM], ids=["cbc", "gcm"]
)
def test_out_and_in(clear: Path, tmp_path: Path, cipher: ContentEncryption) -> None:
    sealed, opened = tmp_path / "sealed", tmp_path / "opened"
    options = SealOptions(content_encryption=cipher)
    assert peak(lambda: seal(clear, sealed, options)) < LIMIT
    assert peak(lambda: unseal(sealed, opened)) < LIMIT
    assert opened.read_bytes() == clear.read_bytes()


@pytest.mark.parametrize("form", ["opaque", "line-feeds", "unwrapped", "one-line"])
def test_other_forms_in(clear: Path, tmp_path: Path, form: str) -> None:
    content = clear.read_bytes()
    entity = b"Content-Type: message/rfc822\r\n\r\n" + content
    if form == "opaque":
        plaintext = cms.opaque(entity, ALICE)
    elif form == "line-feeds":
        # The signature is over canonical line ends: two passes.
        plaintext = cms.detached(entity, ALICE).replace(b"\r\n", b"\n")
    else:
        plaintext = cms.detached(b"Content-Type: text/plain\r\n\r\n" + content, ALICE)
    sealed, opened = tmp_path / "sealed", tmp_path / "opened"
    message = cms.sealed(plaintext, BOB)
    if form == "one-line":
        head, _, body = message.partition(b"\r\n\r\n")
        message = head + b"\r\n\r\n" + body.replace(b"\r\n", b"")
    sealed.write_bytes(message)
    assert peak(lambda: unseal(sealed, opened)) < LIMIT
    assert opened.stat().st_size >= len(content)


@pytest.mark.parametrize("clean", [True, False], ids=["canonical", "8-bit"])
def test_a_submission_made_canonical(clear: Path, tmp_path: Path, clean: bool) -> None:
    if not clean:
        clear.write_bytes(clear.read_bytes() + b"\xc3\xa9\n")
    prepared = tmp_path / "prepared"

    def work() -> None:
        with clear.open("rb") as source, prepared.open("w+b") as out:
            prepare(source, out, message_id="<1@a.example>", date=NOW)

    assert peak(work) < LIMIT
    assert prepared.stat().st_size >= clear.stat().st_size - 10


class Counting(io.BytesIO):
    """Counts the octets that were read."""

    octets = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.octets += len(data)
        return data


@pytest.mark.parametrize("size", [100, 3 * 1024 * 1024])
def test_two_passes_out_and_one_pass_in(size: int) -> None:
    content, out = Counting(MESSAGE.ljust(size, b"x")), io.BytesIO()
    smime.seal(
        content,
        out,
        outer=OUTER,
        signers=[ALICE],
        recipients=[BOB.certificate],
        boundary=BOUNDARY,
        now=NOW,
    )
    assert content.octets == 2 * len(content.getvalue())
    sealed = Counting(out.getvalue())
    smime.unseal(sealed, io.BytesIO(), identities=[BOB])
    header = 8 * 1024  # is read in one piece, and the body after it again
    assert sealed.octets <= len(sealed.getvalue()) + header
