"""The operations that the API offers, and their published definitions.

Pure: a table that the router and the CapabilityStatement read.

Standards:
    FHIR    R4 operations.html, operationdefinition.html
    fhir.md section 4.1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fhir_bridge.registry import ResourceType
from fhir_bridge.terms import JSON, Terms

__all__ = ["OPERATIONS", "Operation", "operation_definition", "operations_of"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `types` empty is every type; `method` is how it is called.

    `code` is what it is called by where that is not its name. `defined`: the definition that it
    follows, where that is not ours.
    """

    name: str
    method: str
    types: tuple[str, ...]
    on_type: bool
    on_instance: bool
    changes: bool
    description: str
    on_system: bool = False
    code: str = ""
    defined: str = ""

    @property
    def path(self) -> str:
        """The last step of its URLs."""
        return f"${self.code or self.name}"


_BULK: Final = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition"
OPERATIONS: Final = (
    Operation(
        "send-direct", "POST", ("Communication",), True, True, True,
        "Send a Communication as a Direct message: the one posted, or a stored draft.",
    ),
    Operation(
        "preflight", "POST", ("Communication",), True, False, False,
        "Say for each recipient whether a certificate is found and trusted; nothing is sent.",
    ),
    Operation(
        "inbox", "GET", ("Communication",), True, False, False,
        "The threads, latest first, each with its last message and its number of unread ones.",
    ),
    Operation(
        "mark-read", "POST", ("Communication",), False, True, True,
        "Mark a message, or all of a thread, as read; with read=false as unread.",
    ),
    Operation(
        "resend", "POST", ("Communication", "Subscription"), False, True, True,
        "Send a message anew to the recipients that it failed to reach. Of a Subscription: tell "
        "its subscriber again of the resource named, or, with none named, begin anew.",
    ),
    Operation(
        "get-ws-binding-token", "GET", ("Subscription",), False, True, False,
        "A token that binds a websocket to the subscription, and where to connect.",
    ),
    Operation(
        "raw", "GET", ("Communication",), False, True, False,
        "The received message as it was decrypted, message/rfc822.",
    ),
    Operation(
        "forwarded", "GET", ("Communication",), False, True, False,
        "The messages that are attached to a message, each as a Communication that nobody judged.",
    ),
    Operation(
        "validate", "POST", (), True, True, False,
        "Say what is wrong with a resource, posted or stored, storing nothing.",
    ),
    Operation(
        "graphql", "POST", (), False, False, False,
        "Answer a GraphQL query of lists and resources: XList with search arguments, X(id:).",
        on_system=True,
    ),
    Operation(
        "process-message", "POST", (), False, False, True,
        "Send the Communication that a message Bundle is about as a Direct message, once, and "
        "answer with a message.",
        on_system=True,
        defined="http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message",
    ),
    Operation(
        "export", "GET", (), False, False, False,
        "Begin an export of all that the client may read, as it is now: with Prefer: "
        "respond-async; Content-Location says where to ask for the files.",
        on_system=True, defined=f"{_BULK}/export",
    ),
    Operation(
        "patient-export", "GET", ("Patient",), True, False, False,
        "Begin an export of every patient, and of what concerns patients.",
        code="export", defined=f"{_BULK}/patient-export",
    ),
    Operation(
        "group-export", "GET", ("Group",), False, True, False,
        "Begin an export of the patients that are members of a Group, and of what concerns them.",
        code="export", defined=f"{_BULK}/group-export",
    ),
)  # fmt: skip


def operation_definition(operation: Operation, terms: Terms) -> JSON:
    """Return the published definition of `operation`."""
    definition: JSON = {
        "resourceType": "OperationDefinition",
        "id": operation.name,
        "url": f"{terms.canonical}/OperationDefinition/{operation.name}",
        "name": operation.name.title().replace("-", ""),
        "status": "active",
        "kind": "operation",
        "affectsState": operation.changes,
        "code": operation.code or operation.name,
        "description": operation.description,
        "system": operation.on_system,
        "type": operation.on_type,
        "instance": operation.on_instance,
        "parameter": [{"name": "return", "use": "out", "min": 0, "max": "1", "type": "Resource"}],
    }
    if operation.defined:
        definition["base"] = operation.defined
    if operation.types:
        definition["resource"] = list(operation.types)
    return definition


def operations_of(kind: ResourceType) -> list[Operation]:
    """Return the operations of one type."""
    named = [o for o in OPERATIONS if not o.on_system]
    return [o for o in named if not o.types or kind.name in o.types]
