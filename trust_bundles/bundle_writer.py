"""Write trust bundles: .p7b, signed .p7m and PEM.

Pure.

Standards:
    TBIG    Direct Trust Bundle Implementation Guide v1.0, sections 2.1 to 2.3
    RFC5652 section 5 (SignedData)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.cms import der
from certs.cms.algorithms import DATA, SIGNED_DATA, Digest
from certs.cms.ber import children
from certs.cms.signed import digests_for, sign
from certs.identity import Identity

__all__ = ["write_p7b", "write_p7m", "write_pem"]

_TAG_0: Final = der.context(0)


def write_p7b(anchors: Iterable[x509.Certificate], metadata: str | None = None) -> bytes:
    """Return the unsigned bundle of `anchors`; `metadata` is what it is to say of itself."""
    content = () if metadata is None else (_wrapped(metadata.encode()),)
    return der.sequence(
        SIGNED_DATA,
        der.tlv(
            _TAG_0,
            der.sequence(
                der.integer(1),
                der.set_of(()),
                der.sequence(DATA, *content),
                der.set_of((cert.public_bytes(Encoding.DER) for cert in anchors), _TAG_0),
                der.set_of(()),
            ),
        ),
    )


def write_p7m(
    anchors: Iterable[x509.Certificate],
    signer: Identity,
    *,
    now: datetime,
    metadata: str | None = None,
) -> bytes:
    """Return the signed bundle: an unsigned one inside a signature by `signer`.

    Raises:
        DirectError: CERTIFICATE_UNFIT; the signer's key cannot sign.
    """
    content = write_p7b(anchors, metadata)
    digests = {
        digest: hashlib.new(digest.value, content).digest()
        for digest in digests_for([signer], Digest.SHA256)
    }
    detached = sign(digests, [signer], wanted=Digest.SHA256, pss=False, now=now)
    # ContentInfo, [0], SignedData: the same with the content put into encapContentInfo.
    [info] = children(detached.encoded)
    kind, wrapped = children(info.content)
    [signed_data] = children(wrapped.content)
    version, algorithms, _, *rest = (part.encoded for part in children(signed_data.content))
    enclosing = der.sequence(DATA, _wrapped(content))
    return der.sequence(
        kind.encoded, der.tlv(_TAG_0, der.sequence(version, algorithms, enclosing, *rest))
    )


def write_pem(anchors: Iterable[x509.Certificate]) -> bytes:
    """Return `anchors` as PEM, one after the other, each after a line with its subject."""
    return b"".join(
        f"# {_comment(cert)}\n".encode() + cert.public_bytes(Encoding.PEM) for cert in anchors
    )


def _wrapped(content: bytes) -> bytes:
    return der.tlv(_TAG_0, der.octet_string(content))


def _comment(cert: x509.Certificate) -> str:
    return "".join(c if c.isprintable() else " " for c in cert.subject.rfc4514_string())
