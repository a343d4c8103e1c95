"""Bundles, anchors and policies through the real console script, with a gateway that serves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import http.server
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dns.name
import dns.zone
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.issue import Locations
from gateway.clock import utc_now
from gateway.dns_responder import DnsResponder
from tests.helpers.bundle_host import BundleHost, bundle_host_in_thread
from tests.helpers.console import Installation, run
from tests.helpers.pki import Ca, pem, pkcs12_of
from tests.helpers.stranger import Stranger, deliver, mail
from trust_bundles.bundle import read_bundle
from trust_bundles.bundle_writer import write_p7b, write_p7m

# They share an installation, whose making takes seconds.
pytestmark = pytest.mark.xdist_group("trust_cli")

DOMAIN = "direct.hillside.example"
USER = f"dr.rivera@{DOMAIN}"
OTHER = "dr.chen@direct.lakeview.example"
DAY = timedelta(days=1)
YEAR = timedelta(days=365)


def ca(name: str, label: str | None = None) -> Ca:
    now = utc_now()
    return Ca.create(name, not_before=now - YEAR, not_after=now + YEAR, label=label)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.create(
        tmp_path_factory.mktemp("trust"),
        f"gw.{DOMAIN}",
        "[discovery]\nprivate_addresses = true\n",
    )
    made.run("domain", "add", DOMAIN)
    made.run("address", "add", USER)
    return made


@pytest.fixture(scope="module")
def host(here: Installation) -> Iterator[BundleHost]:
    with bundle_host_in_thread() as (host, certificate):
        (here.folder / "web-ca.pem").write_bytes(certificate.certificate_pem)
        yield host


@contextlib.contextmanager
def folder_served(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` by HTTP and yield the base of their URLs."""
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def written(here: Installation, name: str, content: bytes) -> Path:
    path = here.folder / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def exit_of(here: Installation, *words: object) -> tuple[int, Any]:
    done = here.run(*words, "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_life_of_a_signed_bundle(here: Installation, host: BundleHost) -> None:
    publisher = ca("Publisher")
    signer = publisher.issue(
        domain="bundles.example.org", not_before=utc_now() - YEAR, not_after=utc_now() + YEAR
    )
    one, two = ca("Member one").certificate, ca("Member two").certificate
    host.files["/atab"] = write_p7m([one], signer, now=utc_now(), metadata="<v>1</v>")
    host.etags["/atab"] = '"1"'
    [added] = here.json(
        "bundle", "add", "atab", "--url", host.url("/atab"), "--for", DOMAIN,
        "--signer", written(here, "signer.pem", pem(publisher.certificate)),
        "--tls-ca", here.folder / "web-ca.pem", "--every", "12h",
    )  # fmt: skip
    assert (added["status"], added["version"], added["added"]) == ("success", 1, 1)
    assert here.json("bundle", "refresh", "atab")[0]["status"] == "unchanged"

    # The publisher's server is taken over: what it serves now is signed by nobody.
    host.etags["/atab"] = '"2"'
    host.files["/atab"] = write_p7b([two])
    status, [refused] = exit_of(here, "bundle", "refresh")
    assert (status, refused["status"]) == (1, "unmatched-signature")
    [listed] = here.json("bundle", "list", "--for", DOMAIN)
    assert listed["for"] == [DOMAIN]
    assert (listed["status"], listed["version"], listed["anchors"]) == ("unmatched-signature", 1, 1)

    host.files["/atab"] = write_p7m([two], signer, now=utc_now() + timedelta(minutes=1))
    assert here.json("bundle", "refresh", "atab")[0]["status"] == "success"
    shown = here.json("bundle", "show", "atab")
    assert [a["subject"] for a in shown["anchors"]] == [two.subject.rfc4514_string()]
    assert shown["uses"] == [{"for": DOMAIN, "directions": "incoming outgoing"}]
    diff = here.json("bundle", "diff", "atab")
    assert (diff["from"], diff["to"]) == ("version 1", "version 2")
    assert (len(diff["added"]), len(diff["removed"])) == (1, 1)
    newest, oldest = here.json("bundle", "history", "atab")
    assert (newest["state"], oldest["state"]) == ("in force", "replaced")
    assert newest["by"].startswith("cli:")

    p12 = written(here, "signer.p12", pkcs12_of(signer, password="secret"))
    password = written(here, "pw", b"secret\n")
    out, signing = here.folder / "out", ("--signer", p12, "--password-file", password)
    here.run("bundle", "export", "atab", "--format", "p7m", "--out", out, *signing)
    assert read_bundle(out.read_bytes(), now=utc_now()).anchors == (two,)
    here.run("bundle", "export", "atab", "--format", "as-received", "--out", out)
    assert out.read_bytes() == host.files["/atab"]

    changed = here.json("bundle", "change", "atab", "--every", "0", "--no-signer", "--approve")
    assert changed["changed"] == ["interval", "needs_approval", "signers"]
    assert here.json("bundle", "disable", "atab")["enabled"] is False
    assert here.json("bundle", "enable", "atab")["enabled"] is True
    detached = here.json("bundle", "detach", "atab", "--for", DOMAIN)
    assert detached["detached"] == [DOMAIN]
    assert here.run("bundle", "remove", "atab", check=False).returncode == 2  # nobody to ask
    here.run("bundle", "remove", "atab", "--yes")
    assert here.json("bundle", "list") == []
    acts = {(e["action"], e["outcome"]) for e in here.json("audit", "list", "--limit", "100")}
    assert {
        ("bundle-added", "done"),
        ("bundle-refreshed", "success"),
        ("bundle-refreshed", "unmatched-signature"),
        ("bundle-changed", "done"),
        ("bundle-detached", "done"),
        ("bundle-removed", "done"),
    } <= acts


def test_what_is_approved_is_what_was_looked_at(here: Installation) -> None:
    old, anew = ca("Rekeyed", "old"), ca("Rekeyed", "new")
    first = written(here, "first.p7b", write_p7b([old.certificate]))
    added = here.json("bundle", "add", "slow", "--file", first, "--approve")
    assert (added[0]["status"], added[0]["version"]) == ("staged", 1)
    assert here.run("bundle", "approve", "slow", "2", check=False).returncode == 2
    assert here.json("bundle", "approve", "slow", "1")["added"] == 1
    second = written(here, "second.pem", pem(anew.certificate))
    here.run("bundle", "refresh", "slow", "--file", second)
    [changed] = here.json("bundle", "diff", "slow")["changed_key"]
    assert changed["subject"] == anew.certificate.subject.rfc4514_string()
    assert "changed key: 0" in here.run("bundle", "diff", "slow", "--file", first).stdout
    # Whoever must sign by now has not signed what waits.
    publisher = written(here, "publisher.pem", pem(anew.certificate))
    here.run("bundle", "change", "slow", "--signer", publisher)
    unsigned = here.run("bundle", "approve", "slow", "2", check=False)
    assert (unsigned.returncode, "unmatched-signature" in unsigned.stderr) == (2, True)
    here.run("bundle", "change", "slow", "--no-signer")
    # The old one again: told apart from a publisher's own change, and taken only on demand.
    here.run("bundle", "approve", "slow", "2")
    status, [back] = exit_of(here, "bundle", "refresh", "slow", "--file", first)
    assert (status, back["status"]) == (1, "rolled-back")
    older = here.json("bundle", "refresh", "slow", "--file", first, "--allow-older")
    assert older[0]["status"] == "staged"


def test_version_of_a_signer_revoked_since_it_came_is_not_approved(here: Installation) -> None:
    publisher, now = ca("Careless publisher"), utc_now()
    with folder_served(here.folder / "crls") as base:
        signer = publisher.issue(
            domain="careless.example.org",
            not_before=now - YEAR,
            not_after=now + YEAR,
            locations=Locations(crls=(f"{base}/list.crl",)),
        )

        def publish(*revoked: x509.Certificate) -> None:
            crl = publisher.crl(
                revoked, this_update=now - timedelta(hours=1), next_update=now + DAY
            )
            (here.folder / "crls" / "list.crl").write_bytes(crl.public_bytes(Encoding.DER))

        publish()
        one = written(here, "careless.p7m", write_p7m([ca("Any").certificate], signer, now=now))
        by = written(here, "careless.pem", pem(publisher.certificate))
        added = here.json("bundle", "add", "careless", "--file", one, "--signer", by, "--approve")
        assert added[0]["status"] == "staged"
        publish(signer.certificate)
        refused = here.run("bundle", "approve", "careless", "1", check=False)
        assert (refused.returncode, "certificate-revoked" in refused.stderr) == (2, True)
        publish()
        assert here.json("bundle", "approve", "careless", "1")["added"] == 1


def test_anchor_that_is_disabled_or_limited_in_time(here: Installation) -> None:
    file = written(here, "partner.pem", pem(ca("Partner").certificate))
    added = here.json("anchor", "add", file, "--for", DOMAIN, "--until", "2020-01-01")
    sha256 = added["sha256"]

    def state() -> str:
        [anchor] = here.json("anchor", "list", "--for", DOMAIN)
        return str(anchor["state"])

    assert state() == "over"
    here.run("anchor", "change", sha256, "--unlimited", "--direction", "incoming")
    assert state() == "trusted"
    here.run("anchor", "disable", sha256, "--for", DOMAIN)
    assert state() == "disabled"
    here.run("anchor", "enable", sha256)
    out = here.folder / "exported.pem"
    here.run("anchor", "export", sha256, "--out", out)
    assert out.read_bytes() == file.read_bytes()
    assert here.json("anchor", "remove", sha256) == {"removed": 1}


def test_policy_is_checked_by_line_and_set_for_a_domain(here: Installation) -> None:
    wrong = written(
        here,
        "wrong.toml",
        b'profile = "as-1.4"\nminimum_rsa_bits = 512\n'
        b'required_policies = [\n  "1.3.6.1.4.1.41179.1.3",\n  "one.two",\n]\ncolour = "red"\n',
    )
    done = run("trust", "policy", "check", wrong, "--json", check=False)
    assert done.returncode == 1
    problems = json.loads(done.stdout)["problems"]
    assert [problem["line"] for problem in problems] == [1, 2, 5, 7]
    refused = here.run("trust", "policy", "set", DOMAIN, wrong, check=False)
    assert refused.returncode == 2
    assert "line 5" in refused.stderr
    good = written(here, "good.toml", b'revocation = "hard-fail"\n')
    here.run("trust", "policy", "set", DOMAIN, good)
    [listed] = here.json("trust", "policy", "list")
    assert listed["domain"] == DOMAIN
    shown = here.json("trust", "policy", "show", DOMAIN)
    assert shown["own"] is True
    assert 'revocation = "hard-fail"' in shown["policy"]
    whole = written(here, "whole.toml", here.run("trust", "policy", "show", DOMAIN).stdout.encode())
    run("trust", "policy", "check", whole)
    here.run("trust", "policy", "remove", DOMAIN)


@pytest.fixture(scope="module")
def stranger() -> Stranger:
    return Stranger.create("Lakeview Root", utc_now())


@pytest_asyncio.fixture
async def resolver(stranger: Stranger) -> AsyncIterator[tuple[str, int]]:
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
    yield await responder.start()
    await responder.stop()


EXPLAIN_KEYS = [
    "direction",
    "decision",
    "reason",
    "certificate",
    "path",
    "anchor",
    "bundle",
    "policy",
    "revocation",
]


async def test_trust_is_explained_with_what_its_contract_names(
    here: Installation,
    resolver: tuple[str, int],
    stranger: Stranger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIRECT_GATEWAY_DISCOVERY__RESOLVER", f"{resolver[0]}:{resolver[1]}")
    monkeypatch.setenv("DIRECT_GATEWAY_DISCOVERY__CACHE", "false")

    async def explain(*more: object) -> tuple[int, dict[str, Any]]:
        words = ("trust", "explain", "--from", USER, "--to", OTHER, *more)
        return await asyncio.to_thread(exit_of, here, *words)

    status, report = await explain()
    assert list(report) == EXPLAIN_KEYS
    assert (status, report["decision"], report["reason"]) == (1, "not-trusted", "not-trusted")
    assert (report["direction"], report["anchor"], report["bundle"]) == ("outgoing", None, None)
    bundle = written(here, "lake.p7b", write_p7b([stranger.ca.certificate]))
    await asyncio.to_thread(here.run, "bundle", "add", "lake", "--file", bundle, "--for", USER)
    status, report = await explain()
    assert (status, report["decision"], report["bundle"]) == (0, "trusted", "lake")
    assert report["certificate"]["binding"] == "address-bound"
    assert report["path"][0]["sha256"] == report["certificate"]["sha256"]
    assert report["anchor"]["subject"] == stranger.ca.certificate.subject.rfc4514_string()
    assert report["revocation"]["status"] == "not-published"
    demand = written(here, "demand.toml", b'keys = ["rsa"]\n')
    await asyncio.to_thread(here.run, "trust", "policy", "set", DOMAIN, demand)
    status, report = await explain()
    assert (status, report["reason"]) == (1, "certificate-unfit")
    assert report["policy"] == {"of": DOMAIN, "clauses": ["keys"]}
    words = ("trust", "explain", "--from", USER, "--to", OTHER)
    tree = (await asyncio.to_thread(here.run, *words, check=False)).stdout
    assert "dns-address" in tree
    assert "path holds" in tree
    assert "it is the policy's keys that forbids it" in tree
    await asyncio.to_thread(here.run, "trust", "policy", "remove", DOMAIN)
    await asyncio.to_thread(here.run, "bundle", "remove", "lake", "--yes")
    status, report = await explain("--direction", "incoming")
    assert (status, report["direction"]) == (1, "incoming")


def test_change_is_in_force_in_the_running_gateway_at_once_and_can_be_tried_before(
    here: Installation, host: BundleHost, stranger: Stranger
) -> None:
    generated = here.folder / "own.p12"
    own = stranger.identity(domain=DOMAIN)
    generated.write_bytes(pkcs12_of(own, password="secret"))
    password = written(here, "own-pw", b"secret\n")
    here.run("cert", "import", generated, "--for", DOMAIN, "--password-file", password)
    host.files["/lake"] = write_p7b([stranger.ca.certificate])
    here.run(
        "bundle", "add", "seen", "--url", host.url("/lake"), "--tls-ca",
        here.folder / "web-ca.pem",
    )  # fmt: skip
    signer = stranger.identity(OTHER)
    with here.served():
        sent = iter(range(1, 100))

        def verdict(recipient: x509.Certificate = own.certificate) -> str:
            """Deliver one more message, and wait for what the gateway says of it."""
            message = mail(OTHER, USER, stranger.now, number=next(sent))
            sealed = stranger.seal(message, signer, recipient)
            asyncio.run(deliver(("127.0.0.1", here.backbone), OTHER, USER, sealed))
            return _settled(here)

        assert verdict() == "refused"
        here.run("bundle", "attach", "seen", "--for", DOMAIN, "--direction", "incoming")
        assert verdict() == "finished"
        demand = written(here, "p384.toml", b'keys = ["p384"]\n')
        here.run("trust", "policy", "set", DOMAIN, demand)
        assert verdict() == "refused"
        here.run("trust", "policy", "remove", DOMAIN)
        assert verdict() == "finished"

        status, tried = exit_of(here, "trust", "replay", "--with", "no-bundle:seen", "--last", "9")
        assert status == 1
        # Four that came in, and the two MDNs about those that were accepted.
        assert (tried["messages"], tried["verdicts"], tried["not_judged"]) == (6, 6, [])
        assert {(f["before"], f["after"]) for f in tried["flips"]} == {("trusted", "not-trusted")}
        assert len(tried["flips"]) == 4
        more = written(
            here, "more.p7b", write_p7b([stranger.ca.certificate, ca("More").certificate])
        )
        status, tried = exit_of(here, "trust", "replay", "--with", f"seen={more}", "--last", "2")
        assert (status, tried["flips"]) == (0, [])
        [only] = here.json("bundle", "history", "seen")
        assert only["version"] == 1  # nothing of it was done
        here.run("bundle", "change", "seen", "--approve")
        host.files["/lake"] = write_p7b([ca("Somebody else").certificate])
        here.run("bundle", "refresh", "seen")
        status, tried = exit_of(here, "trust", "replay", "--with", "seen", "--last", "2")
        assert (status, len(tried["flips"])) == (1, 1)
        policy = ("--with", f"policy:{demand}", "--for", DOMAIN)
        assert exit_of(here, "trust", "replay", *policy, "--last", "2")[0] == 1
        here.run("bundle", "approve", "seen", "2")
        assert verdict() == "refused"
        anchor = written(here, "lake.pem", pem(stranger.ca.certificate))
        adding = ("--with", f"anchor:{anchor}", "--for", DOMAIN)
        status, tried = exit_of(here, "trust", "replay", *adding, "--last", "1")
        assert [(f["before"], f["after"]) for f in tried["flips"]] == [("not-trusted", "trusted")]
        here.run("anchor", "add", anchor, "--for", USER, "--direction", "incoming")
        assert verdict() == "finished"
        _refreshed_by_itself(here, host)


def _settled(here: Installation) -> str:
    """Wait for the verdict on the newest message; asked of the database, for a verb takes long."""
    query = "SELECT state FROM message WHERE direction = 'incoming' ORDER BY id DESC LIMIT 1"
    end = time.monotonic() + 20
    with contextlib.closing(sqlite3.connect(here.folder / "data" / "gateway.sqlite3")) as database:
        while time.monotonic() < end:
            [(state,)] = database.execute(query)
            if state in ("finished", "refused"):
                return str(state)
            time.sleep(0.02)
    raise AssertionError("the message was not judged")


def _refreshed_by_itself(here: Installation, host: BundleHost) -> None:
    """A bundle that is due is refreshed by the gateway that serves."""
    host.files["/due"] = write_p7b([ca("Due").certificate])
    here.run(
        "bundle", "add", "due", "--url", host.url("/due"), "--tls-ca",
        here.folder / "web-ca.pem", "--every", "7d",
    )  # fmt: skip
    host.files["/due"] = write_p7b([ca("Due again").certificate])
    here.run("bundle", "change", "due", "--every", "6d")  # due at once
    end = time.monotonic() + 30
    versions: list[Any] = []
    while time.monotonic() < end and len(versions) < 2:
        versions = here.json("bundle", "history", "due")
    assert versions[0]["by"] == "schedule"
