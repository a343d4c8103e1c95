"""How fast the security agent is, beside the floor of the primitives alone.

Talks to the clock, temporary files and /proc/self (peak memory). The floor is the same RSA, AES and
SHA-256 work through `cryptography`, in this process and in this run, over one buffer in memory:
what no design could go below. The agent works as the gateway has it work, base64 included: in
memory up to the size that the store keeps in a row, from file to file above.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import BinaryIO, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from certs.identity import Identity, SoftwareKey
from certs.issue import Issuer, Validity, ca_certificate, end_entity_certificate
from gateway import smime
from gateway.spool import INLINE_OCTETS

__all__ = ["measure"]

_NOW: Final = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
_PIECE_OCTETS: Final = 128 * 1024
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_V15: Final = padding.PKCS1v15()
_SMALL_OCTETS: Final = 1024 * 1024
_SMALL_TRIES: Final = 100
_OUTER: Final = b"MIME-Version: 1.0\r\nFrom: a@a.example\r\nTo: b@b.example\r\n"


@dataclass(frozen=True, slots=True)
class _Party:
    key: rsa.RSAPrivateKey
    public: rsa.RSAPublicKey
    identity: Identity


def measure(
    sizes: Sequence[int], repeats: int, *, recipients: int = 1
) -> list[dict[str, int | float | str]]:
    """Return a row for each size (in octets) and direction, each the best of `repeats` runs.

    `ms` and `floor_ms` are milliseconds a message, `ratio` their quotient, `peak_extra_bytes` how
    much the process grew beyond what it had before the message (0 where /proc does not tell).
    """
    signer, receiver = _party("bench-a.example"), _party("bench-b.example")
    rows: list[dict[str, int | float | str]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="direct-bench-") as folder:
            bench = _Bench(Path(folder), size, signer, receiver, recipients)
            for direction, work, floor in (
                ("out", bench.out, bench.floor_out),
                ("in", bench.back, bench.floor_in),
            ):
                ms, floor_ms = _best(bench.clear, work, floor, repeats, size)
                rows.append(
                    {
                        "size": size,
                        "direction": direction,
                        "recipients": recipients,
                        "ms": round(ms, 3),
                        "floor_ms": round(floor_ms, 3),
                        "ratio": round(ms / floor_ms, 2),
                        "peak_extra_bytes": _growth(work),
                    }
                )
    return rows


class _Bench:
    """One message of one size, and the work to be timed on it."""

    def __init__(
        self, folder: Path, size: int, signer: _Party, receiver: _Party, recipients: int
    ) -> None:
        self._signer, self._receiver = signer, receiver
        self._clear = folder / "clear"
        self._sealed = folder / "sealed"
        self._made = folder / "made"
        self._recipients = [receiver.identity.certificate] * recipients
        self._piece = os.urandom(min(size, _PIECE_OCTETS) // 16 * 16)
        self._times = size // len(self._piece)
        self._buffer = bytearray(len(self._piece) + 16)
        self._key = os.urandom(32)
        self._wrapped = receiver.public.encrypt(self._key, _OAEP)
        self._signature = signer.key.sign(self._key, _V15, hashes.SHA256())
        self._small: dict[Path, bytes] = {}
        self._write(size)

    def clear(self) -> None:
        """Remove what was made: overwriting a file costs what writing a new one does not."""
        self._made.unlink(missing_ok=True)

    def out(self) -> None:
        """Seal the message."""
        with self._reading(self._clear) as content, self._writing(self._made) as out:
            smime.seal(
                content,
                out,
                outer=_OUTER,
                signers=[self._signer.identity],
                recipients=self._recipients,
                boundary="bench-5d0e2b6a",
                now=_NOW,
            )

    def back(self) -> None:
        """Unseal it."""
        with self._reading(self._sealed) as message, self._writing(self._made) as out:
            smime.unseal(message, out, identities=[self._receiver.identity])

    def floor_out(self) -> None:
        """Sign, wrap the key for every recipient, hash and encrypt, and nothing else."""
        self._signer.key.sign(self._key, _V15, hashes.SHA256())
        for _recipient in self._recipients:
            self._receiver.public.encrypt(self._key, _OAEP)
        self._hash_and(Cipher(AES(self._key), modes.CBC(self._key[:16])).encryptor())

    def floor_in(self) -> None:
        """Unwrap the key, decrypt, hash and verify, and nothing else."""
        self._receiver.key.decrypt(self._wrapped, _OAEP)
        self._hash_and(Cipher(AES(self._key), modes.CBC(self._key[:16])).decryptor())
        self._signer.public.verify(self._signature, self._key, _V15, hashes.SHA256())

    def _reading(self, path: Path) -> BinaryIO:
        return io.BytesIO(self._small[path]) if path in self._small else path.open("rb")

    def _writing(self, path: Path) -> BinaryIO:
        return io.BytesIO() if self._small else path.open("wb")

    def _hash_and(self, cipher: CipherContext) -> None:
        hashing = hashes.Hash(hashes.SHA256())
        for _time in range(self._times):
            hashing.update(self._piece)
            cipher.update_into(self._piece, self._buffer)
        hashing.finalize()

    def _write(self, size: int) -> None:
        # Base64 in lines, as an attachment is.
        line = os.urandom(38).hex().encode("ascii") + b"\r\n"
        with self._clear.open("wb") as clear:
            clear.write(b"From: a@a.example\r\nTo: b@b.example\r\nSubject: bench\r\n\r\n")
            _fill(clear, line, size)
        self.out()
        self._made.rename(self._sealed)
        if size <= INLINE_OCTETS:
            self._small = {path: path.read_bytes() for path in (self._clear, self._sealed)}


def _fill(clear: BinaryIO, line: bytes, size: int) -> None:
    lines = line * (_PIECE_OCTETS // len(line))
    while (left := size - clear.tell()) > 0:
        clear.write(lines[:left])


def _party(domain: str) -> _Party:
    key = rsa.generate_private_key(65537, 2048)
    validity = Validity(_NOW - timedelta(days=1), _NOW + timedelta(days=365))
    ca = ca_certificate(key, name=f"Bench {domain}", validity=validity)
    certificate = end_entity_certificate(
        key.public_key(), domain, issuer=Issuer(ca, key), validity=validity
    )
    return _Party(key, key.public_key(), Identity(certificate, (), SoftwareKey(key)))


def _best(
    clear: Callable[[], None],
    work: Callable[[], None],
    floor: Callable[[], None],
    repeats: int,
    size: int,
) -> tuple[float, float]:
    """Return the best time of each in ms; they take turns, so that noise meets both alike."""
    best = [float("inf"), float("inf")]
    # A small message is over before the scheduler notices: many tries find a quiet moment, and
    # one after the other as in a busy gateway.
    tries = _SMALL_TRIES if size < _SMALL_OCTETS else 1
    for _round in range(repeats):
        for which, call in enumerate((work, floor)):
            for _try in range(tries):
                clear()
                start = perf_counter()
                call()
                best[which] = min(best[which], (perf_counter() - start) * 1000)
    return best[0], best[1]


def _growth(work: Callable[[], None]) -> int:
    """Return by how many octets the resident memory peaked over its present size."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset the peak
        before = _status("VmRSS")
        work()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return 0


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0
