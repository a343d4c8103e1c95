"""Which TLS a delivery must have, from what is configured and what the domain publishes.

Pure.

Standards:
    RFC7672 sections 2.1 and 2.2 (DANE for SMTP comes before all but local policy)
    RFC8461 sections 2 and 5 (MTA-STS; DANE takes precedence)
    RFC7435 (opportunistic security is the rest)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.dane import Tlsa
from gateway.mta_sts import Mode, StsPolicy

__all__ = ["OPPORTUNISTIC", "Demand", "Source", "TlsPolicy", "host_policy"]


class Demand(Enum):
    """What is demanded of a connection. The first two can be done without TLS."""

    NONE = "none"  # configured only: a line that is private by other means
    OPPORTUNISTIC = "opportunistic"  # TLS where it works, with anybody
    ENCRYPT = "encrypt"  # TLS, with anybody
    VERIFY = "verify"  # TLS, with a certificate of the host's name by a known CA
    DANE = "dane"  # TLS, with a certificate the host publishes in DNS


class Source(Enum):
    """Who demands it."""

    CONFIGURED = "configured"
    DANE = "dane"
    MTA_STS = "mta-sts"
    NOBODY = "default"


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is demanded of a connection to one host, and by whom."""

    demand: Demand
    source: Source
    tlsa: tuple[Tlsa, ...] = ()

    @property
    def required(self) -> bool:
        """May nothing be sent without TLS?"""
        return self.demand not in (Demand.NONE, Demand.OPPORTUNISTIC)


OPPORTUNISTIC: Final = TlsPolicy(Demand.OPPORTUNISTIC, Source.NOBODY)


def host_policy(
    host: str, *, associations: Sequence[Tlsa], sts: StsPolicy | None
) -> TlsPolicy | None:
    """Return what is published for one host of a domain, or None where it may not be used.

    `associations` are the host's own TLSA records, and secure (RFC7672 2.1.1).
    """
    if associations:
        usable = tuple(each for each in associations if each.usable)
        # RFC7672 2.1.1: without a usable record TLS is still mandatory, with anybody.
        return TlsPolicy(Demand.DANE if usable else Demand.ENCRYPT, Source.DANE, usable)
    if sts is not None and sts.mode is Mode.ENFORCE:
        # RFC8461 4.1: a host that the policy does not name must not be used.
        return TlsPolicy(Demand.VERIFY, Source.MTA_STS) if sts.allows(host) else None
    return OPPORTUNISTIC
