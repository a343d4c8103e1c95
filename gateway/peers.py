"""How messages to each peer's domain are secured, and how large they may be.

Pure. The defaults suit every accredited peer (K-08). An administrator configures a domain down, to
PKCS#1 v1.5 for one, or up. AES-GCM is used without being told where everybody who is to read the
copy was seen to read it; nothing is ever chosen below the default because a peer says so (R-027).

Standards:
    AS       Applicability Statement v1.3, section 2.8 (AS-049, AS-050, AS-052)
    RFC8551  section 2.7 (choosing the content encryption), 2.5.2 (SMIMECapabilities)
    RFC1870  (the limit that a peer tells by itself comes only when it is connected to)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport
from gateway.seal_options import SealOptions
from gateway.transfer import base64_octets

__all__ = ["Peer", "Peers", "octets_at_most"]

T = TypeVar("T")

_READ_ONLY: Final = (ContentEncryption.DES_EDE3_CBC, Digest.SHA1)
_DEFAULT: Final = SealOptions()
SIZE_OCTETS: Final = 50 * 1024 * 1024

# What sealing adds, on the high side: the outer header repeats fields of the inner one, a
# signature brings certificates, and each recipient an issuer's name and a wrapped key.
_OUTER_OCTETS: Final = 4 * 1024
_SIGNATURE_OCTETS: Final = 16 * 1024
_RECIPIENT_OCTETS: Final = 2 * 1024


class Peer(BaseModel):
    """One peer's domain. What is None is left to what the peer was seen to read, or to us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_transport: KeyTransport = Field(
        _DEFAULT.key_transport, description="for RSA: rsa-oaep-sha256, rsa-pkcs1v15, ..."
    )
    content_encryption: ContentEncryption | None = Field(
        None, description="aes256-cbc, aes128-cbc, aes256-gcm, ...; none: as seen"
    )
    digest: Digest = Field(_DEFAULT.digest, description="sha256, sha384 or sha512")
    pss: bool = Field(_DEFAULT.pss, description="sign with RSASSA-PSS where the key is RSA")
    size_octets: int | None = Field(
        None, ge=65536, description="largest sealed message; none: as on our own backbone"
    )

    @field_validator("content_encryption", "digest")
    @classmethod
    def _may_be_sent(cls, value: T) -> T:
        if value in _READ_ONLY:
            raise ValueError("nobody is sent that any more")
        return value


class Peers:
    """What is configured of peers, by domain; `*` is all others. `size_octets` is our limit."""

    def __init__(
        self, configured: Mapping[str, Peer] | None = None, *, size_octets: int = SIZE_OCTETS
    ) -> None:
        self._configured = configured or {}
        self._size_octets = size_octets

    def options_for(self, domain: str, seen: Iterable[frozenset[ContentEncryption]]) -> SealOptions:
        """Return how to seal for `domain`; `seen` is what each recipient there can decrypt."""
        peer = self._of(domain)
        cipher = peer.content_encryption
        if cipher is None:
            gcm = ContentEncryption.AES256_GCM
            everybody = list(seen)
            reads_gcm = bool(everybody) and all(gcm in one for one in everybody)
            cipher = gcm if reads_gcm else _DEFAULT.content_encryption
        return SealOptions(peer.digest, cipher, peer.key_transport, peer.pss)

    def size_octets(self, domain: str) -> int:
        """Return how large a sealed message to `domain` may be."""
        return self._of(domain).size_octets or self._size_octets

    def fits(self, size: int, recipients: Mapping[str, int]) -> bool:
        """Say whether a message of `size` octets fits somewhere, sealed.

        `recipients` has how many there are at each domain.
        """
        return any(
            octets_at_most(size, count) <= self.size_octets(domain)
            for domain, count in recipients.items()
        )

    def clear_octets(self, recipients: int) -> int:
        """Return how large a message may be that is to fit, sealed, at the peer that takes most.

        There is room for so many `recipients` there, unless they would take half of it.
        """
        domains = {"*", *self._configured}
        limit = max(self.size_octets(domain) for domain in domains)
        return max(_fitting(limit, recipients), _fitting(limit, 1) // 2)

    def _of(self, domain: str) -> Peer:
        return self._configured.get(domain) or self._configured.get("*") or _NOTHING_SPECIAL


def octets_at_most(size: int, recipients: int) -> int:
    """Return how long a canonical message of `size` octets can become when it is sealed.

    No certificate is looked at: it is a little more than what `gateway.smime.seal` makes.
    """
    entity = size + base64_octets(_SIGNATURE_OCTETS)
    return _OUTER_OCTETS + base64_octets(entity + recipients * _RECIPIENT_OCTETS)


def _fitting(limit: int, recipients: int) -> int:
    sizes = range(limit)
    too_large = bisect_right(sizes, limit, key=lambda size: octets_at_most(size, recipients))
    return max(0, too_large - 1)


_NOTHING_SPECIAL: Final = Peer()
