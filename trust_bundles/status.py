"""What became of an attempt to read or refresh a trust bundle, in one word.

Pure: values only.

Standards:
    TB-008 of our catalogue; the first words are those of the reference implementation's
    `BundleRefreshError`, spelt as all our codes are.
"""

from __future__ import annotations

from enum import Enum

from certs.errors import DirectError, Reason

__all__ = ["BundleError", "Status"]


class Status(Enum):
    """The last refresh of a bundle. After every failure the anchors are those of before."""

    NEVER = "never-refreshed"
    SUCCESS = "success"
    UNCHANGED = "unchanged"
    STAGED = "staged"  # waits for an administrator's approval
    NOT_FOUND = "not-found"
    DOWNLOAD_TIMEOUT = "download-timeout"
    TLS_FAILED = "tls-failed"
    UNREACHABLE = "unreachable"
    TOO_BIG = "too-big"
    EMPTY = "empty"  # holds no anchor, or none that may be one
    INVALID_BUNDLE_FORMAT = "invalid-bundle-format"
    INVALID_SIGNING_CERT = "invalid-signing-cert"  # expired, revoked or not for signing
    UNMATCHED_SIGNATURE = "unmatched-signature"  # wrong, somebody else's, or not there
    ROLLED_BACK = "rolled-back"  # older than the one in force

    @property
    def failed(self) -> bool:
        """Whether an administrator should look."""
        return self not in _FINE


_FINE = frozenset({Status.NEVER, Status.SUCCESS, Status.UNCHANGED, Status.STAGED})
_UNAVAILABLE = frozenset(
    {Status.NOT_FOUND, Status.DOWNLOAD_TIMEOUT, Status.TLS_FAILED, Status.UNREACHABLE}
)


class BundleError(DirectError):
    """A bundle that cannot be had or believed. `status` says which of the two, and how."""

    def __init__(self, status: Status, detail: str) -> None:
        unavailable = status in _UNAVAILABLE
        super().__init__(
            Reason.BUNDLE_UNAVAILABLE if unavailable else Reason.BUNDLE_MALFORMED,
            f"{status.value}: {detail}",
        )
        self.status = status
