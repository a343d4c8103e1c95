"""Every way an operation can fail, in the field's terms.

Pure. `Reason` is the only list of failures. It knows whether the same thing may work later, and
nothing of SMTP or HTTP: `gateway.status` and `fhir_bridge.outcome` are total maps over it.
"""

from __future__ import annotations

from enum import Enum, unique

__all__ = ["DirectError", "Reason"]


@unique
class Reason(Enum):
    """Why an operation failed. The second item: may the same thing work later?"""

    ADDRESS_MALFORMED = ("address-malformed", False)
    SENDER_NOT_ALLOWED = ("sender-not-allowed", False)
    RECIPIENT_UNKNOWN = ("recipient-unknown", False)
    RELAY_REFUSED = ("relay-refused", False)
    AUTHENTICATION_REQUIRED = ("authentication-required", False)
    AUTHENTICATION_FAILED = ("authentication-failed", False)
    TLS_REQUIRED = ("tls-required", False)
    CERTIFICATE_NOT_FOUND = ("certificate-not-found", False)
    CERTIFICATE_NOT_BOUND = ("certificate-not-bound", False)
    CERTIFICATE_EXPIRED = ("certificate-expired", False)  # or not yet valid
    CERTIFICATE_UNFIT = ("certificate-unfit", False)  # key usage, algorithm or size
    CERTIFICATE_REVOKED = ("certificate-revoked", False)
    REVOCATION_UNKNOWN = ("revocation-unknown", True)
    NOT_TRUSTED = ("not-trusted", False)  # no path to an anchor
    DIRECTORY_UNAVAILABLE = ("directory-unavailable", True)  # DNS or LDAP
    MESSAGE_MALFORMED = ("message-malformed", False)
    MESSAGE_TOO_BIG = ("message-too-big", False)
    ENVELOPE_MISMATCH = ("envelope-mismatch", False)  # AS-029
    NOT_SECURED = ("not-secured", False)  # not signed and encrypted
    DECRYPTION_FAILED = ("decryption-failed", False)
    SIGNATURE_INVALID = ("signature-invalid", False)
    ALGORITHM_REFUSED = ("algorithm-refused", False)
    BACKBONE_UNAVAILABLE = ("backbone-unavailable", True)
    BACKBONE_REFUSED = ("backbone-refused", False)  # the remote said 5xx
    DELIVERY_EXPIRED = ("delivery-expired", False)
    RESOURCE_INVALID = ("resource-invalid", False)
    RESOURCE_UNSUPPORTED = ("resource-unsupported", False)
    RESOURCE_NOT_FOUND = ("resource-not-found", False)
    RESOURCE_CONFLICT = ("resource-conflict", False)
    SUBSCRIBER_UNAVAILABLE = ("subscriber-unavailable", True)  # a hook does not answer
    ACCESS_FORBIDDEN = ("access-forbidden", False)  # the client has no scope for it
    THROTTLED = ("throttled", True)
    BUNDLE_MALFORMED = ("bundle-malformed", False)
    BUNDLE_UNAVAILABLE = ("bundle-unavailable", True)
    CONFIGURATION_INVALID = ("configuration-invalid", False)
    INTERNAL = ("internal", True)

    def __init__(self, code: str, retryable: bool) -> None:
        self.code = code
        self.retryable = retryable

    @classmethod
    def of(cls, code: str) -> Reason:
        """Return the reason whose `code` this is; INTERNAL where none has it."""
        return next((reason for reason in cls if reason.code == code), cls.INTERNAL)


class DirectError(Exception):
    """An operation failed for `reason`.

    `detail` is for our own log, the evidence record and the administrator. It is never sent to
    a peer, and whoever raises keeps keys and the content of messages out of it.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.code}: {detail}")
        self.reason = reason
        self.detail = detail
