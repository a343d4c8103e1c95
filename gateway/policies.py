"""What each domain demands of certificates: its policy, above its profile, above the default.

Talks to the database through the connection it is handed. Asked at every message, so that a change
is in force at the next one.

Standards:
    AS  Applicability Statement v1.3, section 4.2 (AS-089 in our catalogue; K-11)
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from certs.policy import CertificatePolicy, Profile
from gateway import config, domains
from trust_bundles.policies import Policies

__all__ = ["DomainPolicies", "default_policy"]


class DomainPolicies:
    """The policies of the domains served here. `default` is the configuration's."""

    def __init__(self, default: CertificatePolicy) -> None:
        self._default = default
        self._policies = Policies()

    def policy_for(self, connection: sa.Connection, domain: str) -> CertificatePolicy:
        """Return what `domain` demands now.

        Raises:
            DirectError: CONFIGURATION_INVALID; what is stored for it cannot be read.
        """
        served, default = domains.domain(connection, domain), self._default
        if served is not None and served.profile is Profile.AS_1_2:
            default = replace(default, profile=Profile.AS_1_2)
        return self._policies.policy_for(connection, domain, default)


def default_policy(trust: config.Trust) -> CertificatePolicy:
    """Return the policy that the configuration file states."""
    return CertificatePolicy(
        profile=trust.profile,
        revocation=trust.revocation,
        accept_unwrapped=trust.accept_unwrapped,
    )
