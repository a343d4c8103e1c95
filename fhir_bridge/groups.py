"""Recipients that are many: a Group or a CareTeam becomes its members.

Pure. Each member is a recipient of its own, with a delivery of its own, and says what it was a
member of. Groups within groups are not followed: a member that leads to no Direct address is
refused as any other recipient is.

Standards:
    FHIR    R4 Group.member, CareTeam.participant; Communication.recipient
    fhir.md section 3.4, row on recipients
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON, Terms

__all__ = ["expanded", "group_references", "member_references"]

MEMBERS_MAX: Final = 500
_GROUPS: Final = ("Group/", "CareTeam/")
_KEPT: Final = ("reference", "type", "identifier", "display")


def group_references(resource: Mapping[str, Any]) -> set[str]:
    """Return the literal references of `resource`'s recipients that are groups."""
    literals = (r.get("reference", "") for r in resource.get("recipient", ()))
    return {literal for literal in literals if literal.startswith(_GROUPS)}


def member_references(group: Mapping[str, Any]) -> list[JSON]:
    """Return the references to the members of a Group or CareTeam that are active now."""
    if group.get("resourceType") == "Group":
        members = [m for m in group.get("member", ()) if m.get("inactive") is not True]
        return [m["entity"] for m in members]
    if group.get("resourceType") == "CareTeam":
        return [p["member"] for p in group.get("participant", ()) if "member" in p]
    return []


def expanded(resource: JSON, groups: Mapping[str, JSON], terms: Terms) -> JSON:
    """Return `resource` with each of `groups`, by literal reference, as its members.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED (422); a group without members, too many recipients.
    """
    if not groups:
        return resource
    issues: list[Issue] = []
    recipients: list[JSON] = []
    for position, reference in enumerate(resource.get("recipient", ())):
        group = groups.get(reference.get("reference", ""))
        members = [reference] if group is None else list(_members(reference, group, terms))
        if not members:
            text = "This group has no active members."
            issues.append(Issue("not-found", text, f"Communication.recipient[{position}]"))
        recipients += members
    if len(recipients) > MEMBERS_MAX:
        text = f"A message has at most {MEMBERS_MAX} recipients."
        issues.append(Issue("too-costly", text, "Communication.recipient"))
    if issues:
        raise FhirError(Reason.RESOURCE_UNSUPPORTED, issues)
    return {**resource, "recipient": recipients}


def _members(reference: JSON, group: JSON, terms: Terms) -> Iterator[JSON]:
    of = {"url": terms.extension("member-of"), "valueReference": _plain(reference)}
    for member in member_references(group):
        yield {"extension": [*reference.get("extension", ()), of], **_plain(member)}


def _plain(reference: JSON) -> JSON:
    return {name: reference[name] for name in _KEPT if name in reference}
