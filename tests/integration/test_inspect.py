"""`inspect` for people, through the real console script: each layer that opens, and why it ends."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from certs.identity import Identity
from gateway.cli.__main__ import app
from gateway.clock import utc_now
from tests.helpers import cms_builder as cms
from tests.helpers.console import SCRIPT, run
from tests.helpers.pki import Ca, pem, pkcs12_of
from tests.helpers.stranger import Stranger

pytestmark = pytest.mark.xdist_group("inspect")

SENDER = "dr.rivera@direct.hillside.example"
RECIPIENT = "dr.chen@direct.lakeview.example"
SECRET = "blood pressure 180/110"
HEADER = (
    f"From: Dr. Rivera <{SENDER}>\r\nTo: {RECIPIENT}\r\nMessage-ID: <7@hillside.example>\r\n"
    "Date: Fri, 02 Jan 2026 12:00:00 +0000\r\nSubject: Jane Roe\r\nMIME-Version: 1.0\r\n"
)
PARTS = (
    'Content-Type: multipart/mixed; boundary="p"\r\n\r\n--p\r\n'
    f"Content-Type: text/plain\r\n\r\n{SECRET}\r\n--p\r\n"
    "Content-Type: application/xml\r\nContent-Transfer-Encoding: base64\r\n"
    'Content-Disposition: attachment; filename="Roe-Jane.xml"\r\n\r\nPGEvPg==\r\n--p--\r\n'
)
WRAPPER = b"Content-Type: message/rfc822\r\n\r\n"


@pytest.fixture(scope="module")
def stranger() -> Stranger:
    return Stranger.create("Inspected Root", utc_now())


@pytest.fixture(scope="module")
def signer(stranger: Stranger) -> Identity:
    return stranger.identity(SENDER)


@pytest.fixture(scope="module")
def reader(stranger: Stranger) -> Identity:
    return stranger.ca.issue(
        address=RECIPIENT,
        key="rsa2048",
        not_before=stranger.ca.certificate.not_valid_before_utc,
        not_after=stranger.ca.certificate.not_valid_after_utc,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stranger: Stranger, reader: Identity) -> Path:
    made = tmp_path_factory.mktemp("inspect")
    (made / "key.p12").write_bytes(pkcs12_of(reader))
    (made / "anchor.pem").write_bytes(pem(stranger.ca.certificate))
    return made


def arguments(folder: Path, name: str, *more: object) -> list[object]:
    keys = ("--key", folder / "key.p12", "--anchor", folder / "anchor.pem")
    return ["inspect", folder / name, *keys, "--recipient", RECIPIENT, *more]


def printed(folder: Path, message: bytes, *more: object) -> tuple[int, str]:
    """The exit status of the console script, and what it prints of `message` into a pipe."""
    (folder / "message.eml").write_bytes(message)
    done = run(*arguments(folder, "message.eml", *more), check=False)
    assert not done.stderr
    assert SECRET not in done.stdout
    return done.returncode, done.stdout


def shown(folder: Path, message: bytes, *more: object) -> tuple[int, str]:
    """The same without a process of its own."""
    (folder / "message.eml").write_bytes(message)
    done = CliRunner().invoke(app, [str(a) for a in arguments(folder, "message.eml", *more)])
    assert not done.stderr
    assert SECRET not in done.stdout
    return done.exit_code, done.stdout


def lines_of(output: str) -> list[str]:
    """The lines without the drawing of the tree."""
    return [line.lstrip("│├└─ ").rstrip() for line in output.splitlines()]


def has(output: str, *wanted: str) -> None:
    lines = lines_of(output)
    for line in wanted:
        assert any(found.startswith(line) for found in lines), (line, output)


@pytest.fixture(scope="module")
def good(stranger: Stranger, signer: Identity, reader: Identity) -> bytes:
    return stranger.seal((HEADER + PARTS).encode(), signer, reader.certificate)


def test_a_good_message_layer_by_layer(folder: Path, good: bytes) -> None:
    status, output = printed(folder, good)
    assert status == 0
    assert lines_of(output)[0] == "accepted"
    has(
        output,
        f"size: {len(good):,} octets",
        "Content-Type: application/pkcs7-mime",
        "kind: enveloped-data",
        "content encryption: aes256-cbc",
        "recipient: key transport, rsa-oaep-sha256, serial ",
        "form: multipart/signed",
        "micalg: sha-256",
        "named: serial ",
        "digest: sha256",
        "signature algorithm: sha256-ecdsa",
        "signing time: ",
        "can decrypt (SMIMECapabilities): aes128-cbc, aes128-gcm, aes256-cbc, aes256-gcm",
        f"verifies with: CN={SENDER}",
        "binding: address-bound",
        "anchor: CN=Inspected Root",
        "judged: trusted",
        "wrapped: yes, as message/rfc822",
        f"From: Dr. Rivera <{SENDER}>",
        "Message-Id: <7@hillside.example>",
        "other fields: subject, mime-version, content-type",
        "multipart/mixed",
        "text/plain, 7bit, 22 octets",
        "application/xml, base64, attachment, 8 octets",
    )
    assert "(our key)" in output
    # Nothing clinical is shown: no subject, no file name, no text (AS-024).
    assert "Jane" not in output


def test_in_a_terminal_it_is_the_same_tree(folder: Path, good: bytes) -> None:
    (folder / "message.eml").write_bytes(good)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [SCRIPT, *map(str, arguments(folder, "message.eml"))], stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # the terminal's way to say that the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    for words in (b"accepted", b"content encryption: aes256-cbc", b"text/plain, 7bit"):
        assert words in output
    assert SECRET.encode() not in output


def test_a_changed_message_shows_its_envelope_and_that_no_signer_verifies(
    folder: Path, signer: Identity, reader: Identity
) -> None:
    entity = WRAPPER + (HEADER + PARTS).encode()
    plaintext = cms.detached(entity, signer).replace(b"180/110", b"120/080")
    status, output = printed(folder, cms.sealed(plaintext, reader))
    assert status == 1
    has(
        output,
        "refused: signature-invalid",
        "why: the content is not what was signed",
        "recipient: key transport, rsa-pkcs1v15, serial ",
        "does not verify: the content is not what was signed",
        f"certificate enclosed: CN={SENDER}",
        "wrapped: yes, as message/rfc822",
    )
    assert "judged:" not in output


def test_somebody_elses_message_shows_for_whom_it_is(
    folder: Path, stranger: Stranger, signer: Identity
) -> None:
    other = stranger.identity("somebody@else.example")
    status, output = printed(folder, stranger.seal(HEADER.encode(), signer, other.certificate))
    assert status == 1
    has(
        output,
        "refused: decryption-failed",
        "recipient: key agreement, ecdh-sha256kdf, serial ",
        "no further layer could be opened: the message is encrypted for somebody else",
    )
    assert "(our key)" not in output
    assert "message inside" not in output


def test_content_that_does_not_decrypt_is_not_looked_at(folder: Path, reader: Identity) -> None:
    wrong_key = cms.enveloped(
        b"Content-Type: text/plain\r\n\r\nx", [cms.key_transport(bytes(32), reader)], b"1" * 32
    )
    status, output = shown(folder, cms.message(wrong_key))
    assert status == 1
    has(output, "refused: decryption-failed", "no further layer could be opened: the content does")
    assert "(our key)" in output
    assert "signature" not in lines_of(output)


def test_an_unsigned_message_shows_its_envelope(folder: Path, reader: Identity) -> None:
    plaintext = (HEADER + PARTS).encode()
    status, output = shown(folder, cms.sealed(plaintext, reader))
    assert status == 1
    has(output, "refused: not-secured", "content encryption: aes256-cbc", "no further layer")


def test_a_message_in_clear_shows_its_header_only(folder: Path) -> None:
    status, output = printed(folder, (HEADER + PARTS).encode())
    assert status == 1
    has(output, "refused: not-secured", f"From: Dr. Rivera <{SENDER}>", "no further layer")


def test_an_untrusted_signer_shows_that_no_anchor_is_reached(
    folder: Path, reader: Identity, stranger: Stranger
) -> None:
    elsewhere = Stranger.create("Elsewhere Root", stranger.now)
    message = elsewhere.seal(HEADER.encode(), elsewhere.identity(SENDER), reader.certificate)
    status, output = shown(folder, message)
    assert status == 1
    has(
        output,
        "refused: not-trusted",
        "verifies with: ",
        "binding: address-bound",
        "anchor: none reached",
        "judged: not-trusted",
    )


def test_an_envelope_mismatch_still_shows_the_trusted_signer(folder: Path, good: bytes) -> None:
    status, output = shown(folder, good, "--mail-from", RECIPIENT)
    assert status == 1
    has(output, "refused: envelope-mismatch", "why: MAIL FROM", "judged: trusted")


def test_an_unbound_signer_shows_whom_it_speaks_for(
    folder: Path, stranger: Stranger, reader: Identity
) -> None:
    mallory = stranger.identity("mallory@m.example")
    status, output = shown(folder, stranger.seal(HEADER.encode(), mallory, reader.certificate))
    assert status == 1
    has(output, "refused: certificate-not-bound", "binding: none to the author")


def test_the_policy_of_the_recipients_domain_may_be_given(
    folder: Path, signer: Identity, reader: Identity
) -> None:
    signed = cms.detached(WRAPPER + (HEADER + PARTS).encode(), signer)
    packed = cms.mime(
        cms.compressed_data(signed), "application/pkcs7-mime; smime-type=compressed-data"
    )
    message = cms.sealed(packed, reader)
    status, output = shown(folder, message)
    assert status == 1
    has(output, "refused: algorithm-refused", "compressed: yes", "no further layer")
    (folder / "policy.toml").write_text("inflated_octets = 1000000\n")
    status, output = shown(folder, message, "--policy", folder / "policy.toml")
    assert status == 0
    has(output, "accepted", "compressed: yes", "wrapped: yes, as message/rfc822")
    (folder / "policy.toml").write_text("inflated_octets = -1\n")
    wrong = run(*arguments(folder, "message.eml", "--policy", folder / "policy.toml"), check=False)
    assert wrong.returncode == 2


def test_strangers_text_cannot_steer_the_terminal(
    folder: Path, stranger: Stranger, signer: Identity, reader: Identity
) -> None:
    nasty = f'From: "\x1b[2J [/red] \u202e" <{SENDER}>\r\nTo: {RECIPIENT}\r\n'.encode()
    nasty += b"Subject: [/bold]\x1b]0;owned\x07\r\nMessage-ID: <1@h.example>\r\n"
    nasty += b"Content-Type: text/\x1b[31mplain\r\n\r\nText.\r\n"
    _, output = shown(folder, stranger.seal(nasty, signer, reader.certificate))
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "[/red]" in output


def test_output_is_bounded_whatever_the_message_has(
    folder: Path, stranger: Stranger, signer: Identity, reader: Identity
) -> None:
    key = os.urandom(32)
    others = Ca.create("x" * 60).issue(address=f"{'y' * 40}@long.example", key="rsa2048")
    infos = [cms.key_transport(key, others, encrypted=bytes(256)) for _ in range(300)]
    part = "--p\r\nContent-Type: text/plain\r\n\r\nx\r\n"
    body = 'Content-Type: multipart/mixed; boundary="p"\r\n\r\n' + part * 500 + "--p--\r\n"
    header = HEADER + f"References: {'<r@x.example> ' * 3000}\r\n"
    plaintext = cms.detached(WRAPPER + (header + body).encode(), signer)
    infos.append(cms.key_transport(key, reader))
    status, output = shown(folder, cms.message(cms.enveloped(plaintext, infos, key)))
    assert status == 0, output[:2000]
    has(output, "recipient: and 251 more", "there are more")
    assert len(output) < 40_000
