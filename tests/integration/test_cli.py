"""Every verb through the real console script; the JSON contracts of `inspect` and `lookup`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.name
import dns.zone
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import utc_now
from gateway.dns_responder import DnsResponder
from tests.helpers.console import Installation, run
from tests.helpers.pki import pem, pkcs12_of
from tests.helpers.stranger import Stranger, mail

# They share an installation, whose making takes seconds.
pytestmark = pytest.mark.xdist_group("cli")

DOMAIN = "direct.hillside.example"
USER = f"dr.rivera@{DOMAIN}"
OTHER = "dr.chen@direct.lakeview.example"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.create(tmp_path_factory.mktemp("cli"), f"gw.{DOMAIN}")
    made.run("domain", "add", DOMAIN)
    made.run("address", "add", USER)
    return made


@pytest.fixture(scope="module")
def stranger() -> Stranger:
    return Stranger.create("Stranger Root", utc_now())


def test_init_says_what_it_needs(tmp_path: Path) -> None:
    done = run("init", "--config", tmp_path / "none.toml", check=False)
    assert done.returncode == 2
    assert "--hostname" in done.stderr


def test_init_makes_a_configuration_and_keeps_what_is_there(tmp_path: Path) -> None:
    config = tmp_path / "direct-gateway.toml"
    for _ in range(2):
        run("init", "--hostname", "gw.example.org", "--config", config)
    kek = tmp_path / "data" / "kek"
    assert kek.stat().st_mode & 0o077 == 0
    before = kek.read_bytes()
    run("init", "--config", config)
    assert kek.read_bytes() == before
    assert "[backbone]" in run("init", "--sample").stdout


def test_wrong_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text('[backbone]\nlisten = "nowhere"\n[edge]\nsize_octets = 1\n')
    done = run("check", "--config", config, check=False)
    assert done.returncode == 2
    assert "backbone.listen" in done.stderr
    assert "edge.size_octets" in done.stderr


def test_an_installation_is_set_up_verb_by_verb(tmp_path: Path, stranger: Stranger) -> None:
    here = Installation.create(tmp_path, f"gw.{DOMAIN}")
    assert here.run("check", check=False).returncode == 1
    assert here.json("domain", "add", DOMAIN) == {"domain": DOMAIN}
    again = here.run("domain", "add", DOMAIN, check=False)
    assert again.returncode == 2
    assert "resource-conflict" in again.stderr
    assert here.json("address", "add", USER) == {"address": USER}
    assert here.run("address", "add", "x@elsewhere.example", check=False).returncode == 2
    generated = here.json("cert", "new", "--for", DOMAIN)
    p12 = here.folder / "user.p12"
    p12.write_bytes(pkcs12_of(stranger.identity(USER), password="correct"))
    password = here.folder / "pw"
    password.write_text("wrong\n")
    password.chmod(0o600)
    importing = ("cert", "import", p12, "--for", USER, "--password-file", password)
    assert here.run(*importing, check=False).returncode == 2
    password.write_text("correct\n")
    imported = here.json(*importing)
    listed = here.json("cert", "list")
    assert {c["sha256"] for c in listed} == {generated["sha256"], imported["sha256"]}
    assert {c["binding"] for c in listed} == {"address-bound", "domain-bound"}
    zone = here.run("cert", "publish", DOMAIN, "--mx", f"gw.{DOMAIN}").stdout
    for owner in (DOMAIN, f"dr.rivera.{DOMAIN}"):
        assert f"{owner}. 3600 IN CERT" in zone
    assert f"IN MX 0 gw.{DOMAIN}." in zone
    entries = here.run("cert", "publish", DOMAIN, "--format", "ldif", "--suffix", "o=x").stdout
    assert f"mail: {USER}" in entries
    anchor = here.folder / "anchor.pem"
    anchor.write_bytes(stranger.ca.certificate.public_bytes(Encoding.PEM))
    added = here.json("anchor", "add", anchor, "--for", DOMAIN, "--direction", "incoming")
    [trusted] = here.json("anchor", "list")
    assert (trusted["sha256"], trusted["directions"]) == (added["sha256"], "incoming")
    assert here.run("check").returncode == 0
    assert here.json("anchor", "remove", added["sha256"]) == {"removed": 1}
    assert here.run("anchor", "remove", added["sha256"], check=False).returncode == 2
    assert here.run("check", check=False).returncode == 1


def test_clients_and_users_get_their_secret_once(here: Installation) -> None:
    client = here.json("client", "add", "app", "--mailbox", USER)
    assert len(client["token"]) >= 32
    assert client["token"] not in here.run("client", "list", "--json").stdout
    user = here.json("user", "add", "ehr", "--address", USER)
    assert len(user["password"]) >= 16
    stranger = here.run("client", "add", "other", "--mailbox", OTHER, check=False)
    assert stranger.returncode == 2


def test_empty_lists_are_lists(here: Installation) -> None:
    assert here.json("message", "list") == []
    assert here.json("queue", "list") == []
    unknown = "019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f"
    assert here.run("message", "show", unknown, check=False).returncode == 2


INSPECT_KEYS = ["accepted", "reason", "detail", "wrapped", "message", "signer", "algorithms"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory, stranger: Stranger) -> Path:
    """A folder with a sealed message, the recipient's key and the signer's anchor."""
    folder = tmp_path_factory.mktemp("inspect")
    recipient = stranger.identity(OTHER)
    (folder / "key.p12").write_bytes(pkcs12_of(recipient, password="secret"))
    (folder / "anchor.pem").write_bytes(pem(stranger.ca.certificate))
    message = mail(USER, OTHER, stranger.now)
    signer = stranger.identity(USER)
    (folder / "good.eml").write_bytes(stranger.seal(message, signer, recipient.certificate))
    (folder / "clear.eml").write_bytes(message)
    return folder


def inspect(sealed: Path, name: str, *more: object) -> tuple[int, dict[str, Any]]:
    done = run(
        "inspect",
        sealed / name,
        "--key",
        sealed / "key.p12",
        "--key-password",
        "secret",
        "--anchor",
        sealed / "anchor.pem",
        "--recipient",
        OTHER,
        "--json",
        *more,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_inspect_accepts_and_tells_all_that_its_contract_names(sealed: Path) -> None:
    status, report = inspect(sealed, "good.eml")
    assert list(report) == INSPECT_KEYS
    assert (status, report["accepted"], report["reason"], report["wrapped"]) == (
        0,
        True,
        None,
        True,
    )
    assert report["message"]["from"] == USER
    assert report["signer"]["binding"] == "address-bound"
    assert report["algorithms"] == {
        "digest": "sha256",
        "signature": "ecdsa",
        "content_encryption": "aes256-cbc",
        "key_transport": "ecdh-p256",
    }


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        pytest.param("clear.eml", (), "not-secured", id="in-clear"),
        pytest.param("good.eml", ("--mail-from", OTHER), "envelope-mismatch", id="mail-from"),
        pytest.param("good.eml", ("--at", "2040-01-01T00:00:00Z"), "certificate-expired", id="at"),
    ],
)
def test_inspect_refuses_with_the_reason(
    sealed: Path, name: str, more: tuple[str, ...], reason: str
) -> None:
    status, report = inspect(sealed, name, *more)
    assert (status, report["accepted"], report["reason"]) == (1, False, reason)
    assert list(report) == INSPECT_KEYS


def test_inspect_that_cannot_run_exits_2(sealed: Path) -> None:
    done = run(
        "inspect",
        sealed / "good.eml",
        "--key",
        sealed / "anchor.pem",
        "--anchor",
        sealed / "anchor.pem",
        "--recipient",
        OTHER,
        "--json",
        check=False,
    )
    assert done.returncode == 2


@pytest_asyncio.fixture
async def resolver(stranger: Stranger) -> AsyncIterator[str]:
    der = stranger.identity(OTHER).certificate.public_bytes(Encoding.DER)
    origin = dns.name.from_text("direct.lakeview.example")
    text = "\n".join(
        [
            "@ 300 IN SOA ns hostmaster 1 3600 600 86400 60",
            "@ 300 IN NS ns",
            f"dr.chen 300 IN CERT PKIX 0 0 {base64.b64encode(der).decode()}",
        ]
    )
    zone = dns.zone.from_text(text, origin=origin, relativize=False)
    responder = DnsResponder({origin: zone})
    host, port = await responder.start()
    yield f"{host}:{port}"
    await responder.stop()


async def test_lookup_tells_each_step(resolver: str, stranger: Stranger, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_bytes(pem(stranger.ca.certificate))
    options = ("--resolver", resolver, "--no-cache", "--json")
    done = await asyncio.to_thread(run, "lookup", OTHER, *options)
    report = json.loads(done.stdout)
    assert list(report) == ["address", "found", "reason", "steps", "certificates"]
    assert report["found"] is True
    [step] = report["steps"]
    assert list(step) == ["level", "query", "server", "outcome", "certificates", "ms"]
    assert step["level"] == "dns-address"
    [certificate] = report["certificates"]
    assert list(certificate) == [
        "sha256",
        "subject",
        "binding",
        "level",
        "usable",
        "trusted",
        "reason",
    ]
    assert (certificate["usable"], certificate["trusted"], certificate["reason"]) == (
        True,
        None,
        None,
    )
    done = await asyncio.to_thread(run, "lookup", OTHER, "--anchor", anchor, *options)
    [certificate] = json.loads(done.stdout)["certificates"]
    assert certificate["trusted"] is True


async def test_lookup_of_nobody_exits_1(resolver: str) -> None:
    nobody = "dr.who@direct.lakeview.example"
    options = ("--resolver", resolver, "--no-cache", "--json")
    done = await asyncio.to_thread(run, "lookup", nobody, *options, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["found"], report["reason"]) == (
        1,
        False,
        "certificate-not-found",
    )
    assert [step["level"] for step in report["steps"]][:2] == ["dns-address", "dns-domain"]


def test_audit_tells_what_was_done_and_that_it_is_whole(here: Installation) -> None:
    actions = [event["action"] for event in here.json("audit", "list")]
    assert {"domain-added", "address-added"} <= set(actions)
    assert here.json("audit", "verify")["sound"] is True
    lines = here.run("audit", "export", "--fhir").stdout.splitlines()
    assert {json.loads(line)["resourceType"] for line in lines} == {"AuditEvent"}
    assert len(lines) == len(actions)


def test_queue_verbs_refuse_what_is_not_there(here: Installation) -> None:
    unknown = "019f0c2e-8a3b-7c1d-9e4f-5a6b7c8d9e0f"
    for call in (("show",), ("hold",), ("retry",), ("drop", "--yes")):
        verb, *more = call
        done = here.run("queue", verb, unknown, *more, check=False)
        assert done.returncode == 2
        assert "resource-not-found" in done.stderr
    assert here.json("queue", "pause", "direct.example.net") == {"paused": "direct.example.net"}
    assert here.json("queue", "resume", "direct.example.net") == {"resumed": "direct.example.net"}


def test_selftest_of_discovery_passes_every_official_case() -> None:
    rows = json.loads(run("selftest", "discovery", "--json").stdout)
    assert len(rows) == 24
    assert all(row["passed"] for row in rows)


def test_two_gateways_cannot_serve_one_data_folder(here: Installation) -> None:
    with here.served():
        second = here.run("serve", check=False)
    assert second.returncode == 2
    assert "another gateway" in second.stderr


def test_sandbox_shows_the_exchange_and_exits_0_without_a_terminal() -> None:
    done = run("sandbox")
    assert "The exchange succeeded." in done.stdout
    for words in ("POST Communication", "rsa-oaep-sha256", "identical", "STARTTLS", "curl -s"):
        assert words in done.stdout, words


def test_sandbox_that_fails_exits_1(tmp_path: Path) -> None:
    too_big = tmp_path / "too-big.bin"
    with too_big.open("wb") as file:
        file.truncate(60 * 1024 * 1024)
    done = run("sandbox", "--document", too_big, check=False)
    assert done.returncode == 1
    assert "The exchange failed" in done.stdout
