"""The certificate policies of the domains, in the database.

Talks to the database, inside the caller's transaction. Asked at every message, so that a change is
in force at the next one; a text is read once.

Standards:
    AS  Applicability Statement for Secure Health Transport v1.3, section 4.2 (AS-089)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from certs.address import parse_domain
from certs.policy import CertificatePolicy
from trust_bundles.policy_file import read_policy
from trust_bundles.tables import certificate_policy

__all__ = ["Policies", "StoredPolicy", "list_policies", "remove_policy", "set_policy", "text_of"]

KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The policy of one domain, as it was written."""

    domain: str
    text: str
    changed_by: str
    changed_at: datetime


class Policies:
    """The policies in use, each text read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, CertificatePolicy], CertificatePolicy] = {}

    def policy_for(
        self, connection: sa.Connection, domain: str, default: CertificatePolicy
    ) -> CertificatePolicy:
        """Return what `domain` demands now; what its policy does not say is as in `default`.

        Raises:
            DirectError: CONFIGURATION_INVALID; what is stored cannot be read, so nothing is
                trusted: it may demand more than the default does.
        """
        text = text_of(connection, domain)
        if text is None:
            return default
        key = (text, default)
        if key not in self._read:
            if len(self._read) >= KEPT:
                self._read.clear()
            self._read[key] = read_policy(text, default)
        return self._read[key]


def text_of(connection: sa.Connection, domain: str) -> str | None:
    """Return the policy of a domain as it was written, or None."""
    return connection.execute(_TEXT, {"the_domain": domain}).scalar()


def set_policy(
    connection: sa.Connection, domain: str, text: str, *, actor: str, now: datetime
) -> str | None:
    """Demand this of certificates for `domain` from now on; return the text of before.

    Raises:
        DirectError: CONFIGURATION_INVALID with line numbers; ADDRESS_MALFORMED.
    """
    read_policy(text, CertificatePolicy())
    name = parse_domain(domain)
    old = text_of(connection, name)
    connection.execute(sa.delete(certificate_policy).where(certificate_policy.c.domain == name))
    row = {"domain": name, "text": text, "changed_by": actor, "changed_at": now}
    connection.execute(sa.insert(certificate_policy).values(row))
    return old


def remove_policy(connection: sa.Connection, domain: str) -> str | None:
    """Go back to the default for a domain; return the text of before."""
    name = parse_domain(domain)
    old = text_of(connection, name)
    connection.execute(sa.delete(certificate_policy).where(certificate_policy.c.domain == name))
    return old


def list_policies(connection: sa.Connection) -> Sequence[StoredPolicy]:
    """Return the policies of all domains that have one, by domain."""
    query = sa.select(certificate_policy).order_by(certificate_policy.c.domain)
    return [StoredPolicy(*row) for row in connection.execute(query)]


_TEXT: Final = sa.select(certificate_policy.c.text).where(
    certificate_policy.c.domain == sa.bindparam("the_domain")
)
