"""What a client is told when something fails: `OperationOutcome`.

Pure. `ISSUES` is a total map over `Reason`; public texts are fixed for each reason, and a
`DirectError.detail` never appears here.

Standards:
    FHIR    R4 http.html 3.1.0.4.1 (status codes), valueset-issue-type
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from certs.errors import DirectError, Reason
from fhir_bridge.terms import JSON

__all__ = ["ISSUES", "FhirError", "Issue", "Row", "issue_of", "operation_outcome", "public_text"]

# fhir.md 1.3: 20,000 errors in one body are 20,000 objects in the answer.
ISSUES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue: an issue-type code, plain words, and the FHIRPath of the element concerned."""

    code: str
    text: str
    expression: str | None = None
    severity: str = "error"


@dataclass(frozen=True, slots=True)
class Row:
    """How a reason appears over HTTP: status, issue-type code and public text."""

    status: int
    code: str
    text: str


class FhirError(DirectError):
    """A request cannot be served. `issues` are all that were found, `status` is HTTP's.

    `retry_after_s`: when to try again, in seconds, where that is known.
    """

    retry_after_s: int = 30

    def __init__(self, reason: Reason, issues: Iterable[Issue], status: int | None = None) -> None:
        self.issues = tuple(issues)
        row = ISSUES[reason]
        self.status = status or (row.status if row else 500)
        places = ", ".join(f"{i.code} at {i.expression}" for i in self.issues[:5])
        super().__init__(reason, places)


# None: raised on the backbone or in administration only, and never the answer to a request.
ISSUES: Final[Mapping[Reason, Row | None]] = {
    Reason.ADDRESS_MALFORMED: Row(400, "value", "This is not a Direct address."),
    Reason.SENDER_NOT_ALLOWED: Row(403, "forbidden", "You may not send as this address."),
    Reason.RECIPIENT_UNKNOWN: Row(404, "not-found", "There is no such mailbox here."),
    Reason.RELAY_REFUSED: Row(403, "forbidden", "This gateway does not relay for you."),
    Reason.AUTHENTICATION_REQUIRED: Row(401, "login", "Authenticate with a bearer token."),
    Reason.AUTHENTICATION_FAILED: Row(401, "login", "The token is not valid."),
    Reason.TLS_REQUIRED: Row(403, "security", "This needs an encrypted connection."),
    Reason.CERTIFICATE_NOT_FOUND: Row(
        422, "not-found", "No certificate was found for the recipient."
    ),
    Reason.CERTIFICATE_NOT_BOUND: Row(
        422, "security", "The certificate found is not bound to the recipient's address."
    ),
    Reason.CERTIFICATE_EXPIRED: Row(
        422, "expired", "The recipient's certificate has expired or is not yet valid."
    ),
    Reason.CERTIFICATE_UNFIT: Row(
        422, "security", "The recipient's certificate is not fit for this use."
    ),
    Reason.CERTIFICATE_REVOKED: Row(422, "security", "The recipient's certificate is revoked."),
    Reason.REVOCATION_UNKNOWN: Row(
        503, "transient", "Whether the certificate is revoked could not be learnt."
    ),
    Reason.NOT_TRUSTED: Row(
        422, "security", "The recipient's certificate leads to no trust anchor of the sender."
    ),
    Reason.DIRECTORY_UNAVAILABLE: Row(
        503, "transient", "The directory of certificates could not be reached."
    ),
    Reason.MESSAGE_MALFORMED: Row(400, "structure", "The message is malformed."),
    Reason.MESSAGE_TOO_BIG: Row(413, "too-long", "This is larger than the gateway takes."),
    Reason.ENVELOPE_MISMATCH: None,
    Reason.NOT_SECURED: Row(422, "security", "The message was not signed and encrypted."),
    Reason.DECRYPTION_FAILED: Row(422, "security", "The message could not be decrypted."),
    Reason.SIGNATURE_INVALID: Row(422, "security", "The signature is not valid."),
    Reason.ALGORITHM_REFUSED: Row(422, "not-supported", "A cryptographic algorithm was refused."),
    Reason.BACKBONE_UNAVAILABLE: Row(
        503, "transient", "The recipient's system could not be reached."
    ),
    Reason.BACKBONE_REFUSED: Row(422, "processing", "The recipient's system refused the message."),
    Reason.DELIVERY_EXPIRED: Row(504, "timeout", "No confirmation of delivery came in time."),
    Reason.RESOURCE_INVALID: Row(400, "invalid", "The resource is not valid."),
    Reason.RESOURCE_UNSUPPORTED: Row(422, "not-supported", "This is not supported here."),
    Reason.RESOURCE_NOT_FOUND: Row(404, "not-found", "There is no such resource."),
    Reason.RESOURCE_CONFLICT: Row(409, "conflict", "This conflicts with what is stored."),
    Reason.ACCESS_FORBIDDEN: Row(403, "forbidden", "Your scopes do not open this."),
    Reason.THROTTLED: Row(429, "throttled", "Too many requests; try again later."),
    Reason.SUBSCRIBER_UNAVAILABLE: None,
    Reason.BUNDLE_MALFORMED: None,
    Reason.BUNDLE_UNAVAILABLE: None,
    Reason.CONFIGURATION_INVALID: None,
    Reason.INTERNAL: Row(500, "exception", "The gateway failed; the operator can see why."),
}


def public_text(reason: Reason) -> str:
    """Return what anybody may be told of `reason`."""
    row = ISSUES[reason]
    return row.text if row else "The message could not be delivered."


def issue_of(error: DirectError) -> tuple[int, tuple[Issue, ...]]:
    """Return the HTTP status and the issues of any `DirectError`."""
    if isinstance(error, FhirError):
        return error.status, error.issues
    row = ISSUES[error.reason] or Row(500, "exception", public_text(Reason.INTERNAL))
    return row.status, (Issue(row.code, row.text),)


def operation_outcome(issues: Iterable[Issue]) -> JSON:
    """Return the `OperationOutcome`, cut at 100 issues, the last of which then says so."""
    found = list(issues)
    if len(found) > ISSUES_MAX:
        left = len(found) - ISSUES_MAX + 1
        found[ISSUES_MAX - 1 :] = [Issue("too-costly", f"{left} more issues are not listed.")]
    return {"resourceType": "OperationOutcome", "issue": [_rendered(issue) for issue in found]}


def _rendered(issue: Issue) -> JSON:
    rendered: JSON = {
        "severity": issue.severity,
        "code": issue.code,
        "details": {"text": issue.text},
    }
    if issue.expression is not None:
        rendered["expression"] = [issue.expression]
    return rendered
