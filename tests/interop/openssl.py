"""OpenSSL's `cms` as a peer: makes and reads S/MIME with the identities of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.identity import Identity
from tests.helpers.pki import private_key_of

__all__ = ["OpenSsl"]


class OpenSsl:
    """Runs `openssl cms` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def cms(self, *arguments: str, stdin: bytes) -> bytes:
        """Return what `openssl cms` writes; its complaint is the assertion's message."""
        done = subprocess.run(
            ["openssl", "cms", *arguments], input=stdin, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def certificate(self, identity: Identity) -> str:
        path = self._folder / f"{identity.certificate.serial_number:x}.pem"
        path.write_bytes(
            b"".join(c.public_bytes(Encoding.PEM) for c in (identity.certificate, *identity.chain))
        )
        return str(path)

    def key(self, identity: Identity) -> str:
        path = self._folder / f"{identity.certificate.serial_number:x}.key"
        key = private_key_of(identity)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(path)

    def file(self, content: bytes) -> str:
        self._count += 1
        path = self._folder / f"file{self._count}"
        path.write_bytes(content)
        return str(path)

    def signed(self, entity: bytes, signer: Identity, *arguments: str) -> bytes:
        """A multipart/signed over `entity`, as OpenSSL writes it."""
        return self.cms(
            "-sign",
            "-signer",
            self.certificate(signer),
            "-inkey",
            self.key(signer),
            *arguments,
            stdin=entity,
        )

    def encrypted(self, entity: bytes, recipient: Identity, *arguments: str) -> bytes:
        """An S/MIME message with header fields of OpenSSL's making."""
        # -keyopt belongs to the -recip before it.
        recip = ("-recip", self.certificate(recipient), *arguments)
        addresses = ("-from", "alice@a.example", "-to", "bob@b.example")
        return self.cms("-encrypt", "-binary", *recip, *addresses, stdin=entity)

    def opened(self, message: bytes, recipient: Identity) -> bytes:
        """What is inside the envelope of `message`."""
        return self.cms(
            "-decrypt",
            "-binary",
            "-recip",
            self.certificate(recipient),
            "-inkey",
            self.key(recipient),
            stdin=message,
        )

    def verified(self, entity: bytes, anchor: bytes, *arguments: str) -> bytes:
        """The content under a good signature that leads to `anchor`, in PEM."""
        return self.cms(
            "-verify",
            "-binary",
            "-crlfeol",
            "-CAfile",
            self.file(anchor),
            "-purpose",
            "smimesign",
            "-no_check_time",
            *arguments,
            stdin=entity,
        )
