"""How a message is secured for one peer.

Pure: values only, apart from the work so that configuration can name them cheaply.

Standards:
    AS  Applicability Statement v1.3, section 2.8 (AS-045 to AS-052)
"""

from __future__ import annotations

from dataclasses import dataclass

from certs.cms.algorithms import ContentEncryption, Digest, KeyTransport

__all__ = ["SealOptions"]


@dataclass(frozen=True, slots=True)
class SealOptions:
    """How to secure a message for one peer; the defaults suit every accredited one (K-08)."""

    digest: Digest = Digest.SHA256
    content_encryption: ContentEncryption = ContentEncryption.AES256_CBC
    key_transport: KeyTransport = KeyTransport.RSA_OAEP_SHA256
    pss: bool = False
