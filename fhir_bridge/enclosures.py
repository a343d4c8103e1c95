"""What a message that is to be sent refers to: actors, documents, Binaries.

Store functions: plain synchronous SQL on the caller's connection; the rest is pure.

Standards:
    FHIR    R4 Communication.payload, Reference
    fhir.md section 3.4, row on `data` and `url`
"""

from __future__ import annotations

import sqlalchemy as sa

from fhir_bridge.binary_rows import BinaryRow
from fhir_bridge.clients import Client
from fhir_bridge.indexing import local_id
from fhir_bridge.outbound import Content, contact_references
from fhir_bridge.outcome import Issue
from fhir_bridge.store import read
from fhir_bridge.terms import JSON

__all__ = ["local_resources", "mismatches", "references_of", "sent_along"]


def references_of(resource: JSON) -> set[str]:
    """Return the literal references that sending needs to follow."""
    references = (resource.get("sender", {}), *resource.get("recipient", ()))
    found = {reference.get("reference", "#") for reference in references}
    return {literal for literal in found if not literal.startswith("#")} | sent_along(resource)


def sent_along(resource: JSON) -> set[str]:
    """Return the literal references to what is sent along."""
    references = (p.get("contentReference", {}) for p in resource.get("payload", ()))
    found = {reference.get("reference", "#") for reference in references}
    return {literal for literal in found if not literal.startswith("#")}


def local_resources(
    connection: sa.Connection, literals: set[str], client: Client
) -> dict[str, JSON]:
    """Return the resources that `literals` name, and what those say of where to reach them."""
    found: dict[str, JSON] = {}
    wanted = literals
    for _ in range(2):
        for literal in wanted:
            identity = local_id(literal)
            kind = literal.partition("/")[0]
            stored = read(connection, kind, identity, client.owners) if identity else None
            if stored is not None and not stored.deleted:
                found[literal] = stored.resource()
        wanted = {
            literal
            for literal in wanted & found.keys()
            for literal in contact_references(found[literal])
        } - found.keys()
    return found


def mismatches(content: Content, row: BinaryRow | None) -> list[Issue]:
    """Return why `row`, which it names, cannot be `content`."""
    if row is None:
        # fhir.md 3.4: nothing foreign is fetched (SSRF).
        text = "Only a Binary of this server, and yours, can be attached."
        return [Issue("not-found", text, f"{content.at}.url")]
    issues = []
    for name, said, is_ in (("size", content.size, row.size), ("hash", content.sha1, row.sha1)):
        if said is not None and said != is_:
            text = f"The {name} is not that of the Binary."
            issues.append(Issue("invariant", text, f"{content.at}.{name}"))
    return issues
