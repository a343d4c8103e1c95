"""The topology of the official discovery test tool, rebuilt: zones, LDAP entries, PKI and cases.

Pure but for the randomness of keys. Somebody else runs the servers: `gateway.selftest_discovery`
small ones of ours, the tests Knot and slapd.

Standards:
    DCDT    Direct Certificate Discovery Tool (ONC) 3.x, discovery cases D1 to D18
    CD      Certificate Discovery for Direct v4.1
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certs.address import DirectAddress, parse_address
from certs.issue import (
    Issuer,
    KeyKind,
    Locations,
    Validity,
    ca_certificate,
    end_entity_certificate,
    generate_key,
)

__all__ = ["CASES", "SERVERS", "Case", "LdapEntry", "Topology", "build"]

# The three LDAP servers, as in the tool; the fourth, UNAVAIL, has no address.
SERVERS: Final = ("LDAP1", "LDAP2", "LDAP3")
UNAVAILABLE: Final = "UNAVAIL"
YEARS: Final = timedelta(days=3650)
ONE_YEAR: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Case:
    """One case: to whom, which certificate must be encrypted to (None: nobody), and why."""

    id: str
    address: str  # local part and number of the domain: "d1@1"
    expected: str | None
    why: str


@dataclass(frozen=True, slots=True)
class LdapEntry:
    """One inetOrgPerson of a server."""

    name: str
    mail: str
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the servers serve. `zones` are records by origin, `files` are by URL path."""

    base: str
    anchor: x509.Certificate
    certificates: Mapping[str, x509.Certificate]
    zones: Mapping[str, Sequence[str]]
    entries: Mapping[str, Sequence[LdapEntry]]
    files: Mapping[str, bytes]

    def address_of(self, case: Case) -> DirectAddress:
        """Return the address of a case in this topology's domain."""
        return parse_address(_full(case.address, self.base))


CASES: Final = (
    Case("D1", "d1@1", "D1_valA", "an address-bound certificate in DNS wins over the domain's"),
    Case("D2", "d2@1", "D2_valB", "the valid one of two domain-bound certificates in DNS"),
    Case("D3", "d3@2", "D3_valC", "an address-bound certificate in LDAP wins over the domain's"),
    Case("D4", "d4@2", "D4_valD", "the valid one of two domain-bound certificates in LDAP"),
    Case("D5", "d5@1", None, "an expired address-bound certificate in DNS ends the search"),
    Case("D6", "d6@4", None, "an expired domain-bound certificate in DNS"),
    Case("D7", "d7@2", None, "an expired address-bound certificate in LDAP ends the search"),
    Case("D8", "d8@5", None, "an expired domain-bound certificate in LDAP"),
    Case("D9", "d9@1", "D9_valA", "the valid one of two address-bound certificates in DNS"),
    Case("D10", "d10@3", "D10_valE", "the first LDAP server cannot be reached, the second can"),
    Case("D11", "d11@6", None, "no certificate in DNS and no SRV record"),
    Case("D12", "d12@7", None, "the only LDAP server cannot be reached"),
    Case("D13", "d13@8", None, "the LDAP server has no entry"),
    Case("D14", "d14@1", "D14_valA", "a certificate that needs TCP"),
    Case("D15", "d15@2", "D15_valC", "the LDAP server of the better priority is asked first"),
    Case("D16", "d16@5", "D16_valC", "the LDAP server of the greater weight is asked first"),
    Case("D17", "d17@9", "D17_valA", "two of three certificates are revoked"),
    Case("D18", "d18@10", "D18_valA", "the issuer is fetched from where the certificate says"),
    Case("d17", "dt17@11", "DT17_val", "the same, published as certs-only CMS (DirectTrust)"),
    Case("d18", "dt18@11", None, "the only certificate is revoked (DirectTrust)"),
)

# name, address or domain, where ("dns" or a server), and what is special about it
_CREDENTIALS: Final = (
    ("D1_valA", "d1@1", "dns", ""),
    ("D1_invB", "1", "dns", "expired"),
    ("D2_valB", "1", "dns", ""),
    ("D1_invC", "d1@1", "LDAP1", "expired"),
    ("D1_invD", "1", "LDAP1", "expired"),
    ("D2_invC", "d2@1", "LDAP1", "expired"),
    ("D2_invD", "1", "LDAP1", "expired"),
    ("D5_invA", "d5@1", "dns", "expired"),
    ("D9_valA", "d9@1", "dns", ""),
    ("D9_invA", "d9@1", "dns", "expired"),
    ("D14_valA", "d14@1", "dns", "large"),
    ("D3_valC", "d3@2", "LDAP1", ""),
    ("D3_invD", "2", "LDAP1", "expired"),
    ("D4_valD", "2", "LDAP1", ""),
    ("D7_invC", "d7@2", "LDAP1", "expired"),
    ("D15_valC", "d15@2", "LDAP1", ""),
    ("D15_invE", "d15@2", "LDAP2", "expired"),
    ("D10_valE", "d10@3", "LDAP2", ""),
    ("D6_invB", "4", "dns", "expired"),
    ("D16_valE", "d16@5", "LDAP1", ""),
    ("D16_valC", "d16@5", "LDAP3", ""),
    ("D8_invD", "5", "LDAP3", "expired"),
    ("D17_valA", "d17@9", "dns", ""),
    ("D17_invB", "d17@9", "dns", "revoked"),
    ("D17_invC", "d17@9", "dns", "revoked"),
    ("D17_invD", "9", "dns", ""),
    ("D18_valA", "d18@10", "dns", "intermediate.der"),
    ("D18_invB", "10", "dns", "expired"),
    ("DT17_val", "dt17@11", "dns", "intermediate.p7c"),
    ("DT18_inv", "dt18@11", "dns", "revoked"),
)

# domain: (priority, weight, server)
_SERVICES: Final[Mapping[int, Sequence[tuple[int, int, str]]]] = {
    1: [(0, 0, "LDAP1")],
    2: [(0, 0, "LDAP1"), (1, 0, "LDAP2")],
    3: [(0, 0, UNAVAILABLE), (1, 0, "LDAP2")],
    4: [(0, 0, "LDAP1")],
    5: [(0, 0, "LDAP1"), (0, 100, "LDAP3")],
    7: [(0, 0, UNAVAILABLE)],
    8: [(0, 0, "LDAP1")],
}
_DOMAINS: Final = range(1, 12)


def build(
    base: str, *, now: datetime, ldap_ports: Mapping[str, int], web_port: int, host: str
) -> Topology:
    """Return the topology under the domain `base`, for servers on these ports of `host`.

    `host` is an IPv4 address. Making some thirty RSA keys takes seconds.
    """
    pki = _Pki(base, now, web_port)
    certificates = {
        name: pki.issue(name, _full(subject, base), special)
        for name, subject, _, special in _CREDENTIALS
    }
    return Topology(
        base=base,
        anchor=pki.root.certificate,
        certificates=certificates,
        zones=_zones(base, certificates, ldap_ports, host),
        entries=_entries(base, certificates),
        files=pki.files(),
    )


@dataclass(slots=True)
class _Pki:
    """The tool's root, its intermediate, and the list of what is revoked."""

    base: str
    now: datetime
    web_port: int
    root: Issuer = field(init=False)
    intermediate: Issuer = field(init=False)
    revoked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        validity = Validity(self.now - ONE_YEAR, self.now + YEARS)
        key = generate_key(KeyKind.RSA_2048)
        self.root = Issuer(ca_certificate(key, name="DCDT root", validity=validity), key)
        key = generate_key(KeyKind.RSA_2048)
        certificate = ca_certificate(
            key,
            name="DCDT intermediate1",
            validity=validity,
            issuer=self.root,
            locations=self._locations("root", "root.der"),
        )
        self.intermediate = Issuer(certificate, key)

    def issue(self, name: str, subject: str, special: str) -> x509.Certificate:
        key = generate_key(KeyKind.RSA_4096 if special == "large" else KeyKind.RSA_2048)
        validity = Validity(self.now - ONE_YEAR, self.now + YEARS)
        if special == "expired":
            # As in the tool: one year ago, and of no length.
            validity = Validity(self.now - ONE_YEAR, self.now - ONE_YEAR)
        below = special.startswith("intermediate")
        certificate = end_entity_certificate(
            key.public_key(),
            parse_address(subject) if "@" in subject else subject,
            issuer=self.intermediate if below else self.root,
            validity=validity,
            locations=(
                self._locations("intermediate", special)
                if below
                else self._locations("root", "root.der")
            ),
        )
        if special == "revoked":
            self.revoked.append(certificate.serial_number)
        return certificate

    def files(self) -> Mapping[str, bytes]:
        intermediate = self.intermediate.certificate
        return {
            "/root.der": self.root.certificate.public_bytes(Encoding.DER),
            "/intermediate.der": intermediate.public_bytes(Encoding.DER),
            "/intermediate.p7c": pkcs7.serialize_certificates([intermediate], Encoding.DER),
            "/root.crl": self._crl(self.root, self.revoked),
            "/intermediate.crl": self._crl(self.intermediate, []),
        }

    def _crl(self, ca: Issuer, serials: Sequence[int]) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(ca.certificate.subject)
            .last_update(self.now - timedelta(hours=1))
            .next_update(self.now + timedelta(days=1))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder(serial, self.now - ONE_YEAR)
            entry = entry.add_extension(
                x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False
            )
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _locations(self, ca: str, certificate: str) -> Locations:
        site = f"http://pki.{self.base}:{self.web_port}"
        return Locations(crls=(f"{site}/{ca}.crl",), issuers=(f"{site}/{certificate}",))


def _zones(
    base: str,
    certificates: Mapping[str, x509.Certificate],
    ldap_ports: Mapping[str, int],
    host: str,
) -> Mapping[str, Sequence[str]]:
    zones = {base: [f"{name} IN A {host}" for name in ("@", "ldap", "pki", "ns1", "mail")]}
    for number in _DOMAINS:
        origin = f"domain{number}.{base}"
        records = [f"@ IN A {host}", f"@ IN MX 0 mail.{base}."]
        for priority, weight, server in _SERVICES.get(number, ()):
            reachable = server in ldap_ports
            target = "ldap" if reachable else "ldap-unavailable"
            port = ldap_ports[server] if reachable else next(iter(ldap_ports.values()))
            records.append(f"_ldap._tcp IN SRV {priority} {weight} {port} {target}.{base}.")
        for name, subject, where, _ in _CREDENTIALS:
            if where == "dns" and subject.rpartition("@")[2] == str(number):
                owner = subject.rpartition("@")[0] or "@"
                records.append(_cert_record(owner, certificates[name]))
        zones[origin] = records
    return zones


def _cert_record(owner: str, certificate: x509.Certificate) -> str:
    # CD-023: the tool computes a key tag; whatever it is, nobody may look at it.
    tag = certificate.serial_number & 0xFFFF
    der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")
    return f"{owner} IN CERT PKIX {tag} 8 {der}"


def _entries(
    base: str, certificates: Mapping[str, x509.Certificate]
) -> Mapping[str, Sequence[LdapEntry]]:
    return {
        server: [
            LdapEntry(name, _full(subject, base), certificates[name])
            for name, subject, where, _ in _CREDENTIALS
            if where == server
        ]
        for server in SERVERS
    }


def _full(subject: str, base: str) -> str:
    local_part, at, number = subject.rpartition("@")
    return f"{local_part}{at}domain{number}.{base}"
