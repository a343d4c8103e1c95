"""The key-encryption key that private keys at rest are sealed under.

Talks to files, and to a PKCS#11 token where the key lies sealed under one of its keys.

A source is written as
    file:PATH         32 octets, or 64 hexadecimal digits; a bare path means the same
    credential:NAME   the same content, as systemd hands it over in $CREDENTIALS_DIRECTORY
    token:LABEL       32 octets beside the database, sealed by the token's AES key of that label

While a key is rotated the next one lies beside its file as PATH.new; both open.

Standards:
    systemd.exec(5), LoadCredential= and SetCredentialEncrypted=
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from certs.envelope import KEK_OCTETS
from certs.errors import DirectError, Reason

__all__ = ["KekKind", "KekSource", "parse_source", "read_kek", "read_keks", "read_secret"]

CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"


class KekKind(Enum):
    """Where the key comes from."""

    FILE = "file"
    CREDENTIAL = "credential"
    HSM = "token"


@dataclass(frozen=True, slots=True)
class KekSource:
    """`path` is the file that holds the key, in whatever form; `label` is the token's key."""

    kind: KekKind
    path: Path
    label: str = ""

    @property
    def following(self) -> Path:
        """Where the next key lies while the key is rotated."""
        return self.path.with_name(f"{self.path.name}.new")


def parse_source(text: str, *, folder: Path) -> KekSource:
    """Return the source that `text` names; a relative path counts from `folder`.

    Raises:
        DirectError: CONFIGURATION_INVALID; a credential was not handed over, or has no name.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind == KekKind.FILE.value:
        return KekSource(KekKind.FILE, folder / (rest if colon else text))
    if not rest or "/" in rest:
        raise _invalid(f"{text}: write file:PATH, credential:NAME or token:LABEL")
    if kind == KekKind.HSM.value:
        return KekSource(KekKind.HSM, folder / f"kek.{rest}", rest)
    if kind == KekKind.CREDENTIAL.value:
        handed_over = os.environ.get(CREDENTIALS)
        if not handed_over:
            raise _invalid(f"{text}: ${CREDENTIALS} is not set; is LoadCredential= in the unit?")
        return KekSource(KekKind.CREDENTIAL, Path(handed_over) / rest)
    raise _invalid(f"{text}: write file:PATH, credential:NAME or token:LABEL")


def read_keks(
    source: KekSource, unseal: Callable[[bytes, str], bytes] | None = None
) -> Sequence[bytes]:
    """Return the key, and in the midst of its rotation the next one.

    `unseal` opens what a token sealed.

    Raises:
        DirectError: CONFIGURATION_INVALID; it cannot be read, is of another length, or others may
            read its file. INTERNAL; the token is away.
    """
    rotating = source.kind is not KekKind.CREDENTIAL and source.following.exists()
    paths = [source.path, *([source.following] if rotating else [])]
    if source.kind is not KekKind.HSM:
        return [read_kek(path) for path in paths]
    if unseal is None:
        raise _invalid("the key-encryption key is sealed by a token, and none is configured")
    return [_checked(unseal(read_secret(path), source.label), path) for path in paths]


def read_kek(path: Path) -> bytes:
    """Return the key-encryption key: the 32 octets, or 64 hexadecimal digits, in a file.

    Raises:
        DirectError: CONFIGURATION_INVALID; no such file, of another length, or open to others.
    """
    return _checked(read_secret(path), path)


def read_secret(path: Path) -> bytes:
    """Return the content of a file that nobody but its owner and group may read.

    Raises:
        DirectError: CONFIGURATION_INVALID; it cannot be read, or everybody may.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise _invalid(f"{path} is open to every user of this machine: chmod o-rwx {path}")
            return file.read()
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}") from None


def _checked(data: bytes, path: Path) -> bytes:
    if len(data) == KEK_OCTETS:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEK_OCTETS:
        raise _invalid(f"{path}: not a key of {KEK_OCTETS} octets")
    return key


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
