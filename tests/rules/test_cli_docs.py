"""The command line and its documents: up to date, complete, and every verb with an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.__main__ import app
from gateway.cli.reference import reference

DOCS = Path(__file__).parents[2] / "docs"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every verb with its words, the nouns left out."""
    if not hasattr(command, "list_commands"):
        yield " ".join(path), command
        return
    context = command.context_class(command, info_name="direct-gateway")
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), (*path, name))


VERBS = dict(commands(typer.main.get_command(app)))


def test_reference_is_what_the_program_says() -> None:
    """`python -m gateway.cli.reference > docs/cli.md` makes it anew."""
    assert (DOCS / "cli.md").read_text() == reference()


@pytest.mark.parametrize("name", VERBS)
def test_verb_has_help_an_example_of_itself_and_says_what_each_option_is(name: str) -> None:
    command = VERBS[name]
    text, _, example = command.help.partition("\nExample: ")
    assert text.strip()
    assert example.startswith(f"direct-gateway {name}")
    assert [p.name for p in command.params if not p.help and p.name != "help"] == []


def test_verb_that_prints_takes_json() -> None:
    """Those that do not print a text of another form, such as a zone, a script or NDJSON."""
    texts = {
        "serve",
        "init",
        "export",
        "completion",
        "sandbox",
        "cert publish",
        "audit export",
    }
    without = {
        name
        for name, command in VERBS.items()
        if "--json" not in [option for p in command.params for option in p.opts]
    }
    assert without <= texts


def test_what_cannot_be_taken_back_asks_first() -> None:
    """An anchor and a policy are there again from the file they came from."""
    for name, command in VERBS.items():
        ends = name.split()[-1] in ("remove", "drop", "retire")
        if ends and name not in ("anchor remove", "trust policy remove"):
            assert "--yes" in [option for p in command.params for option in p.opts], name


def test_every_verb_of_other_consoles_has_ours_or_a_reason() -> None:
    text = (DOCS / "verbs.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert all(cells), row
    named = set(re.findall(r"`([a-z][a-z -]*?)(?: --[^`]*)?`", text))
    known = {words for words in named if words in VERBS}
    unknown = {
        words for words in named - known if words.split()[0] in {v.split()[0] for v in VERBS}
    }
    nouns = {"apply", "config-manager"}
    assert unknown <= nouns
    # Each of ours is in a table, so that nobody searches for it in vain.
    assert set(VERBS) - known == set()


JAVA = """AddDomain AddIPKIXCert AddPolicyGroup AddPolicyGroupToDomain AddPolicyToGroup
AddPrivateCert
AddPrivateCertWithWrappedKey AddPublicCert AddSetting AddTrustBundle AddTrustBundleToDomain
DeleteAnchor DeleteDomain DeletePolicy DeletePolicyFromGroup DeletePolicyGroup
DeletePolicyGroupFromDomain DeleteSetting DeleteTrustBundle DeleteTrustBundleFromDomain
Dns_ANAME_Add Dns_ANAME_Ensure Dns_ANAME_Import Dns_ANAME_Match Dns_ANAME_Remove Dns_CNAME_Add
Dns_CNAME_Ensure Dns_MX_Add Dns_MX_Ensure Dns_MX_Import Dns_MX_Match Dns_MX_Remove Dns_Match
Dns_NS_Add Dns_NS_Ensure Dns_SOA_Add Dns_SOA_Ensure Dns_SOA_Import Dns_SOA_Match Dns_SOA_Remove
Dns_SRV_Add Dns_SRV_Ensure Dns_TXT_Add Dns_TXT_Ensure Dns_Get_All Dns_Get_SOA_Contacts
ExportAnchor ExportCertByAddress GetDomain ImportAnchor ImportPolicy ListAddressesByDomain
ListAnchors ListCerts ListCertsByAddress ListDomainBundles ListDomainPolicyGroups ListDomains
ListGroupPolicies ListPolicies ListPolicyGroups ListSettings ListTrustBundleAnchors
ListTrustBundles RefreshTrustBundle RemoveCert RemoveCertByTP StressTest UpdateBundleURL"""


def test_all_69_verbs_of_the_java_console_are_there() -> None:
    section = (DOCS / "verbs.md").read_text().partition("## Java config-manager")[2]
    section = section.partition("## Java agent tools")[0]
    mentioned = [word for line in section.splitlines() for word in re.findall(r"\w+", line)]
    java = JAVA.split()
    assert len(java) == 69
    assert [verb for verb in java if verb not in mentioned] == []
