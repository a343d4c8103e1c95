"""The signed entity as it streams by: hashed as it is, unwrapped into the inner message.

Pure. Every octet is hashed before it is looked at; what is written is what was hashed, less the
wrapper's own header and transfer encoding.

Standards:
    RFC8551 section 3.1 (message/rfc822 wrapping, canonical line ends)
    AS      AS-022, AS-023, AS-028; traps T-11 to T-13
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

from cryptography.hazmat.primitives import hashes

from certs.cms.algorithms import Digest
from certs.cms.ber import Octets, malformed
from certs.errors import DirectError
from certs.policy import CertificatePolicy
from gateway.header import (
    HEADER_OCTETS,
    Field,
    end_of_header,
    parse_header,
    part_kind,
)
from gateway.transfer import Decoder, decoder_for

__all__ = ["SignedEntity"]

_SHORT_HEADER_OCTETS: Final = 2048


class SignedEntity:
    """Takes the signed octets in pieces and writes the inner message to `out`.

    After `finish`: `digests` of the exact octets, `canonical_digests` of the same with canonical
    line ends where asked for `both`, `wrapped`, and the `size` written. With `canonical` the
    octets are made canonical before all else.

    What is wrong with the entity itself is kept as `problem` and counts only once its signature is
    known to be good: before that, it may be the work of whoever tampered with the envelope.
    """

    def __init__(
        self,
        out: BinaryIO,
        *,
        outer: Iterable[Field],
        policy: CertificatePolicy,
        digests: Iterable[Digest],
        canonical: bool,
        both: bool,
    ) -> None:
        digests = tuple(digests)
        self._out = out
        self._outer = outer
        self._policy = policy
        self._exact = _Hashes(digests)
        self._canonical = _Hashes(digests) if both and not canonical else None
        self._line_ends = _LineEnds() if both or canonical else None
        self._rewrite = canonical
        self._header: bytes | None = b""  # as far as it has come; None once it is behind us
        self.problem: DirectError | None = None
        self._decoder: Decoder = decoder_for("binary")
        self.digests: dict[Digest, bytes] = {}
        self.canonical_digests: dict[Digest, bytes] = {}
        self.wrapped = False
        self.size = 0

    def feed(self, piece: Octets) -> None:
        """Take the next octets."""
        if self._line_ends is not None:
            canonical = self._line_ends.feed(piece)
            if self._rewrite:
                piece = canonical
            elif self._canonical is not None:
                self._canonical.update(canonical)
        self._take(piece)

    def finish(self) -> None:
        """Take note that there are no more."""
        if self._line_ends is not None:
            last = self._line_ends.finish()
            if self._rewrite:
                self._take(last)
            elif self._canonical is not None:
                self._canonical.update(last)
        self._guarded(self._unwrap_rest)
        self.digests = self._exact.finish()
        if self._canonical is not None:
            self.canonical_digests = self._canonical.finish()

    def _take(self, piece: Octets) -> None:
        self._exact.update(piece)
        self._guarded(lambda: self._unwrap(piece))

    def _guarded(self, step: Callable[[], None]) -> None:
        if self.problem is None:
            try:
                step()
            except DirectError as error:
                self.problem = error

    def _unwrap(self, piece: Octets) -> None:
        if self._header is None:
            self._write(self._decoder.feed(piece))
            return
        # Most headers are short: the long piece is not copied for nothing.
        come = len(self._header)
        header = self._header + bytes(piece[:_SHORT_HEADER_OCTETS])
        found = end_of_header(header)
        if found is None:
            header += bytes(piece[_SHORT_HEADER_OCTETS:])
            found = end_of_header(header)
        if (found[0] if found else len(header)) > HEADER_OCTETS:
            raise malformed("the header of the signed part is too long")
        if found is None:
            self._header = header
            return
        self._header = None
        self._start(header[: found[0]], header[found[0] : found[1]])
        self._write(self._decoder.feed(memoryview(piece)[found[1] - come :]))

    def _unwrap_rest(self) -> None:
        if self._header is not None:
            raise malformed("the header of the signed part has no end")
        self._write(self._decoder.finish())

    def _start(self, header: bytes, empty_line: bytes) -> None:
        kind, encoding = part_kind(header)
        self.wrapped = kind.name == "message/rfc822"
        if self.wrapped:
            # AS-028, T-11: peers send the wrapper in any transfer encoding, base64 too.
            self._decoder = decoder_for(encoding)
            return
        if kind.name == "multipart/signed" or "pkcs7" in kind.name:
            raise malformed("there is a signed or encrypted layer inside the signature")
        if not self._policy.accept_unwrapped:
            raise malformed("the message is not wrapped")
        # AS-022: what the signature covers goes before what it does not.
        signed = {field.name for field in parse_header(header)}
        for field in self._outer:
            if field.name not in signed and not field.name.startswith("content-"):
                self._write(field.raw)
        self._write(header + empty_line)

    def _write(self, data: Octets) -> None:
        self.size += len(data)
        self._out.write(data)


class _Hashes:
    """Several digests of the same octets."""

    def __init__(self, digests: Iterable[Digest]) -> None:
        self._contexts = {digest: hashes.Hash(digest.hash) for digest in digests}

    def update(self, data: Octets) -> None:
        for context in self._contexts.values():
            context.update(data)

    def finish(self) -> dict[Digest, bytes]:
        return {digest: context.finalize() for digest, context in self._contexts.items()}


class _LineEnds:
    """Makes every line end CRLF (RFC8551 3.1.1), across pieces."""

    def __init__(self) -> None:
        self._carried = b""

    def feed(self, piece: Octets) -> bytes:
        data = self._carried + bytes(piece)
        # A carriage return at the end may belong to a line feed to come.
        self._carried = data[-1:] if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._carried)]
        return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        return self._carried
