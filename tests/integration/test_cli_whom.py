"""`domain`, `address`, `user` and `client` through the real console script."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa
from joserfc import jwk

from certs.address import parse_address
from certs.ids import new_id
from gateway import messages
from gateway.clock import utc_now
from gateway.database import SqlDatabase
from gateway.messages import Direction, NewMessage, Source
from gateway.ports import StoredBody
from tests.helpers.console import Installation

pytestmark = pytest.mark.xdist_group("cli")

DOMAIN = "direct.hillside.example"
USER, DESK = f"dr.rivera@{DOMAIN}", f"desk@{DOMAIN}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.create(tmp_path_factory.mktemp("cli"), f"gw.{DOMAIN}")
    made.run("domain", "add", DOMAIN)
    made.run("address", "add", USER)
    return made


def under_way(here: Installation) -> None:
    """Put a message into the database that is on its way to the user."""
    now = utc_now()
    new = NewMessage(
        id=new_id(now),
        direction=Direction.INCOMING,
        source=Source.BACKBONE,
        actor="test",
        envelope_sender=None,
        recipients=(parse_address(USER),),
        body=StoredBody(new_id(now).hex, 1, "", b"x"),
    )

    async def work() -> None:
        url = f"sqlite:///{here.folder / 'data' / 'gateway.sqlite3'}"
        async with SqlDatabase.open(url) as database:
            await database.write(lambda c: messages.accept(c, new, [], now))

    asyncio.run(work())


def test_domain_is_changed_disabled_and_enabled(here: Installation) -> None:
    said = here.batch(
        ("domain", "change", DOMAIN, "--profile", "as-1.2"),
        ("domain", "disable", DOMAIN),
        ("domain", "list"),
        ("domain", "enable", DOMAIN),
        ("domain", "list"),
        ("audit", "list", "--action", "domain-changed"),
    )
    assert [one.status for one in said] == [0] * 6
    assert said[1].output == {"domain": DOMAIN, "enabled": False}
    assert [(d["profile"], d["enabled"]) for d in said[2].output] == [("as-1.2", False)]
    assert [d["enabled"] for d in said[4].output] == [True]
    [event] = said[5].output
    assert (event["old"], event["new"], event["outcome"]) == ("as-1.3", "as-1.2", "done")
    assert event["actor"].startswith("cli:")


def test_what_has_addresses_or_messages_under_way_is_not_removed(here: Installation) -> None:
    under_way(here)
    domain, address, audited = here.batch(
        ("domain", "remove", DOMAIN, "--yes"),
        ("address", "remove", USER, "--yes"),
        ("audit", "list", "--action", "address-removed"),
    )
    assert (domain.status, "has 1 addresses" in domain.error) == (2, True)
    assert (address.status, "under way" in address.error) == (2, True)
    [event] = audited.output
    assert (event["outcome"], event["new"]) == ("refused", "resource-conflict")


def test_nothing_is_removed_unasked(here: Installation) -> None:
    nouns = (("domain", DOMAIN), ("address", USER), ("user", "ehr"), ("client", "app"))
    for said in here.batch(*((noun, "remove", name) for noun, name in nouns)):
        assert said.status == 2
        assert "--yes" in said.error


def test_address_says_where_it_reads_and_who_gets_copies(here: Installation) -> None:
    lmtp = ("--lmtp", "127.0.0.1:24", "--tls", "none", "--forward", USER)
    wrong = (
        ("--fhir", "--lmtp", "127.0.0.1:24"),
        ("--smtp", "a:1", "--lmtp", "b:2"),
        ("--login", "gw"),
        ("--smtp", "nowhere"),
        ("--forward", f"nobody@{DOMAIN}"),
    )
    _, shown, fhir, _, as_domain, *refused = here.batch(
        ("address", "add", DESK, *lmtp),
        ("address", "show", DESK),
        ("address", "change", DESK, "--fhir", "--forward", ""),
        ("address", "change", DESK, "--smtp", "mail.example.org:587", "--login", "gw"),
        ("address", "change", DESK, "--as-domain"),
        *(("address", "change", DESK, *options) for options in wrong),
    )
    assert shown.output["deliver"] == "server"
    assert shown.output["server"] == "lmtp 127.0.0.1:24 tls=none"
    assert shown.output["forward"] == [USER]
    assert fhir.output == {"address": DESK, "deliver": "fhir", "server": None, "forward": []}
    assert as_domain.output["deliver"] == "default"
    assert [one.status for one in refused] == [2] * len(wrong)


def test_address_is_disabled_and_removed_with_all_that_act_for_it(here: Installation) -> None:
    gone = f"gone@{DOMAIN}"
    *_, disabled, enabled, removed, shown, users, clients, _, _ = here.batch(
        ("address", "add", gone),
        ("user", "add", "leaving", "--address", gone, "--address", USER),
        ("client", "add", "leaving", "--mailbox", gone, "--mailbox", USER),
        ("address", "disable", gone),
        ("address", "enable", gone),
        ("address", "remove", gone, "--yes"),
        ("address", "show", gone),
        ("user", "list"),
        ("client", "list"),
        ("user", "remove", "leaving", "--yes"),
        ("client", "remove", "leaving", "--yes"),
    )
    assert (disabled.output["enabled"], enabled.output["enabled"]) == (False, True)
    assert (removed.output, shown.status) == ({"removed": gone}, 2)
    assert [u["addresses"] for u in users.output] == [[USER]]
    assert [c["mailboxes"] for c in clients.output] == [[USER]]


def test_user_has_its_life(here: Installation, tmp_path: Path) -> None:
    secret, public = tmp_path / "password", tmp_path / "public"
    for file, mode in ((secret, 0o600), (public, 0o644)):
        file.write_text("chosen by a person\n")
        file.chmod(mode)
    added, open_to_all, given, made, _, _, listed, _, unsaid, _, empty, audited = here.batch(
        ("user", "add", "ehr", "--address", USER),
        ("user", "password", "ehr", "--password-file", public),
        ("user", "password", "ehr", "--password-file", secret),
        ("user", "password", "ehr"),
        ("user", "change", "ehr", "--address", USER, "--address", USER.upper()),
        ("user", "disable", "ehr"),
        ("user", "list"),
        ("user", "enable", "ehr"),
        ("user", "change", "ehr"),
        ("user", "remove", "ehr", "--yes"),
        ("user", "list"),
        ("audit", "list", "--subject", "ehr"),
    )
    assert len(added.output["password"]) >= 16
    assert (open_to_all.status, "chmod" in open_to_all.error) == (2, True)
    assert given.output == {"user": "ehr", "password": None}
    assert made.output["password"] not in (added.output["password"], "chosen by a person")
    [shown] = listed.output
    assert (shown["user"], shown["enabled"], shown["addresses"]) == ("ehr", False, [USER])
    assert (unsaid.status, empty.output) == (2, [])
    events = json.dumps(audited.output)
    assert "user-password-changed" in events
    for word in (added.output["password"], made.output["password"], "chosen", "argon2"):
        assert word not in events


def test_client_has_its_life(here: Installation) -> None:
    wrong = ((), ("--scope", "user/*.read"), ("--mailbox", "x@elsewhere.example"))
    added, renewed, _, _, listed, _, *refused, removed, gone, audited = here.batch(
        ("client", "add", "app", "--mailbox", USER),
        ("client", "token", "app"),
        ("client", "change", "app", "--scope", "system/Communication.rs"),
        ("client", "disable", "app"),
        ("client", "list"),
        ("client", "enable", "app"),
        *(("client", "change", "app", *options) for options in wrong),
        ("client", "remove", "app", "--yes"),
        ("client", "token", "app"),
        ("audit", "list", "--subject", "app"),
    )
    tokens = {added.output["token"], renewed.output["token"]}
    assert len(tokens) == 2
    [shown] = listed.output
    assert shown["scopes"] == "system/Communication.rs"
    assert (shown["mailboxes"], shown["disabled"], shown["keys"]) == ([USER], True, False)
    assert [one.status for one in refused] == [2] * len(wrong)
    assert (removed.output, gone.status) == ({"removed": "app"}, 2)
    for token in tokens:
        assert len(token) >= 32
        assert token not in json.dumps([listed.output, audited.output])


def test_client_with_keys_of_its_own_has_no_token(here: Installation, tmp_path: Path) -> None:
    def keys(kid: str, *, private: bool) -> Path:
        key = jwk.ECKey.generate_key("P-384", {"kid": kid, "use": "sig"})
        file = tmp_path / kid
        file.write_text(json.dumps({"keys": [key.as_dict(private=private)]}))
        return file

    junk = tmp_path / "junk"
    junk.write_text("not JSON")
    added, listed, token, broken, _ = here.batch(
        ("client", "add", "backend", "--mailbox", USER, "--jwks", keys("one", private=False)),
        ("client", "list"),
        ("client", "token", "backend"),
        ("client", "change", "backend", "--jwks", junk),
        ("client", "change", "backend", "--jwks", keys("two", private=True)),
    )
    assert set(added.output) == {"client", "client_id"}
    [shown] = [one for one in listed.output if one["client"] == "backend"]
    assert (shown["client_id"], shown["keys"]) == (added.output["client_id"], True)
    assert (token.status, broken.status) == (2, 2)
    declared = tomllib.loads(here.run("export").stdout)["client"]["backend"]
    [kept] = json.loads(declared["jwks"])["keys"]
    # Whoever gives us a private key by mistake still has it for themselves.
    assert (kept["kid"], "d" in kept) == ("two", False)
    here.run("client", "remove", "backend", "--yes")


def test_trail_of_all_this_is_whole_and_shows_an_edit(here: Installation) -> None:
    verdict = here.json("audit", "verify")
    assert verdict["sound"] is True
    engine = sa.create_engine(f"sqlite:///{here.folder / 'data' / 'gateway.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(sa.text("update audit_event set actor = 'cli:nobody' where number = 2"))
    done = here.run("audit", "verify", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["first_broken"]) == (1, 2)
    engine.dispose()
