"""CompressedData: inflated in pieces, within bounds.

Pure; constant memory. Nobody in Direct sends it, and by default nobody may. Where a policy allows
it, it stands between encryption and signature (sign, compress, encrypt): the signature is then
over the wrapped message itself, as AS-021 wants it. Outside the encryption it serves nothing, and
inside the signature it would be the signed entity in the wrapper's place; both are refused.

What is inflated was signed by nobody yet, so a bomb costs its maker nothing. It is cut off when it
has grown beyond a size, or out of proportion to what was received.

Standards:
    RFC3274 sections 1.1 (CompressedData) and 2 (zlib); RFC1950 (its format)
    RFC8551 sections 3.6 and 3.7 (compressed-data, and what may be nested in what)
    R-028 in our catalogue (refuse or bound)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from certs.cms import der
from certs.cms.algorithms import DATA, identified, refused
from certs.cms.ber import Octets, Reader, malformed
from certs.errors import DirectError, Reason

__all__ = ["COMPRESSED_DATA", "FREE_OCTETS", "RATIO", "inflated"]

COMPRESSED_DATA: Final = der.oid("1.2.840.113549.1.9.16.1.9")
_ZLIB: Final = der.oid("1.2.840.113549.1.9.16.3.8")
_CONTENT: Final = der.context(0)

_OID_OCTETS: Final = 64
_ALGORITHM_OCTETS: Final = 1024
_INPUT_OCTETS: Final = 8 * 1024
_OUTPUT_OCTETS: Final = 64 * 1024

# A C-CDA shrinks to a tenth or a twentieth; zlib at its utmost reaches 1,032. Small contents may
# be as regular as they like.
RATIO: Final = 100
FREE_OCTETS: Final = 1024 * 1024


def inflated(pieces: Iterable[Octets], limit: int) -> Iterator[bytes]:
    """Yield the content of the CompressedData in `pieces`, at most `limit` octets of it.

    Raises:
        DirectError: MESSAGE_TOO_BIG; there is more, or more than RATIO times what was received.
            ALGORITHM_REFUSED; it is not compressed with zlib. MESSAGE_MALFORMED.
    """
    reader = Reader(pieces)
    reader.enter(der.SEQUENCE)
    if reader.element(_OID_OCTETS).encoded != COMPRESSED_DATA:
        raise malformed("the compressed content is not a CMS CompressedData")
    reader.enter(der.context(0))
    # CompressedData ::= SEQUENCE { version, compressionAlgorithm, encapContentInfo }
    reader.enter(der.SEQUENCE)
    reader.skip(_OID_OCTETS)
    if identified(reader.element(_ALGORITHM_OCTETS)).oid != _ZLIB:
        raise refused("the compression algorithm is not zlib")
    reader.enter(der.SEQUENCE)
    if reader.element(_OID_OCTETS).encoded != DATA:
        raise malformed("the compressed content is not of type id-data")
    reader.enter(_CONTENT)
    yield from _Inflation(limit).run(reader.string(der.OCTET_STRING))
    for _container in range(5):
        reader.leave()
    reader.finish()


class _Inflation:
    """One zlib stream, and how much of it came in and went out."""

    def __init__(self, limit: int) -> None:
        self._stream = zlib.decompressobj()
        self._limit = limit
        self._received = 0
        self._made = 0

    def run(self, pieces: Iterable[memoryview]) -> Iterator[bytes]:
        for piece in pieces:
            for start in range(0, len(piece), _INPUT_OCTETS):
                yield from self._step(piece[start : start + _INPUT_OCTETS])
        if not self._stream.eof:
            raise malformed("the compressed content is cut short")

    def _step(self, data: Octets) -> Iterator[bytes]:
        self._received += len(data)
        while len(data):
            if self._stream.eof:
                raise malformed("there is more after the end of the compressed content")
            try:
                made = self._stream.decompress(data, _OUTPUT_OCTETS)
            except zlib.error:
                raise malformed("the compressed content does not inflate") from None
            self._made += len(made)
            if self._made > min(self._limit, max(FREE_OCTETS, RATIO * self._received)):
                raise DirectError(Reason.MESSAGE_TOO_BIG, "the compressed content grows too large")
            if made:
                yield made
            data = self._stream.unused_data or self._stream.unconsumed_tail
