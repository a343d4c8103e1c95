"""The CapabilityStatement: what this API does, from the tables that make it do so.

Pure.

Standards:
    FHIR    R4 capabilitystatement.html
    SMART   App Launch 2.2.0, conformance
    BULK    Bulk Data Access 2.0.0, `instantiates`
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from fhir_bridge.definitions import TYPES
from fhir_bridge.message_definition import messaging
from fhir_bridge.operation_definitions import OPERATIONS, Operation, operations_of
from fhir_bridge.registry import COMMON, Kind, ResourceType, SearchParameter
from fhir_bridge.terms import JSON, Terms
from fhir_bridge.trust import instant

__all__ = ["capability_statement"]

FHIR_VERSION: Final = "4.0.1"
BULK_DATA: Final = "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"
_HL7: Final = "http://hl7.org/fhir/SearchParameter"


def capability_statement(
    *,
    base_url: str,
    software: str,
    now: datetime,
    terms: Terms,
    versioned_update: bool = False,
) -> JSON:
    """Return the statement for the API at `base_url`; `software` is our version, if known.

    `versioned_update`: whoever changes something must say which version.
    """
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant(now),
        "kind": "instance",
        "instantiates": [BULK_DATA],
        "software": {"name": "direct-gateway", **({"version": software} if software else {})},
        "implementation": {"description": "Direct secure messaging over FHIR", "url": base_url},
        "fhirVersion": FHIR_VERSION,
        "format": ["application/fhir+json", "application/fhir+xml", "json", "xml"],
        "patchFormat": ["application/json-patch+json"],
        "messaging": [messaging(base_url, terms)],
        "rest": [
            {
                "mode": "server",
                "security": _security(base_url),
                "resource": [_resource(kind, terms, versioned_update) for kind in TYPES.values()],
                "operation": [
                    _operation(operation, terms) for operation in OPERATIONS if operation.on_system
                ],
                "interaction": [
                    {"code": code}
                    for code in ("batch", "transaction", "history-system", "search-system")
                ],
                "searchParam": [
                    *(_parameter(TYPES["Communication"], parameter, terms) for parameter in COMMON),
                    _TYPE,
                ],
            }
        ],
    }


# R4 has no resource of this parameter; search.html 3.1.1.3 defines it.
_TYPE: Final[JSON] = {
    "name": "_type",
    "type": "token",
    "documentation": "Resource types, separated by commas. Also of [base]/_history.",
}


def _security(base_url: str) -> JSON:
    token_url = f"{base_url.removesuffix('/fhir/R4')}/oauth2/token"
    return {
        "extension": [
            {
                "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                "extension": [{"url": "token", "valueUri": token_url}],
            }
        ],
        "service": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                        "code": "SMART-on-FHIR",
                    }
                ]
            }
        ],
        "description": "A bearer token (RFC 6750): SMART Backend Services, or one that the "
        "administrator issued.",
    }


def _operation(operation: Operation, terms: Terms) -> JSON:
    definition = operation.defined or f"{terms.canonical}/OperationDefinition/{operation.name}"
    return {"name": operation.code or operation.name, "definition": definition}


def _resource(kind: ResourceType, terms: Terms, versioned_update: bool) -> JSON:
    versioning = "versioned" if "vread" in kind.interactions else "no-version"
    if versioned_update and "update" in kind.interactions:
        versioning = "versioned-update"
    described: JSON = {
        "type": kind.name,
        "interaction": [{"code": code} for code in kind.interactions],
        "versioning": versioning,
        "readHistory": "vread" in kind.interactions,
        "updateCreate": False,
        "conditionalCreate": "create" in kind.interactions and kind.name != "Binary",
        "conditionalRead": "not-match",
        "conditionalUpdate": "update" in kind.interactions,
        "conditionalDelete": "not-supported",
    }
    operations = operations_of(kind)
    if operations:
        described["operation"] = [_operation(operation, terms) for operation in operations]
    # AuditEvents are the gateway's own trail, which has no index of these.
    common = () if kind.name == "AuditEvent" else COMMON
    if "search-type" in kind.interactions:
        described["searchParam"] = [
            _parameter(kind, parameter, terms) for parameter in (*kind.parameters, *common)
        ]
        references = [p.name for p in kind.parameters if p.kind is Kind.REFERENCE and not p.of]
        if references:
            described["searchInclude"] = [f"{kind.name}:{name}" for name in references]
        referring = [
            f"{other.name}:{p.name}"
            for other in TYPES.values()
            for p in other.parameters
            if p.kind is Kind.REFERENCE and not p.of and (not p.targets or kind.name in p.targets)
        ]
        described["searchRevInclude"] = referring
    return described


def _parameter(kind: ResourceType, parameter: SearchParameter, terms: Terms) -> JSON:
    if parameter.ours:
        definition = f"{terms.canonical}/SearchParameter/{kind.name}-{parameter.name}"
    elif parameter in COMMON:
        definition = f"{_HL7}/Resource-{parameter.name.removeprefix('_')}"
    else:
        definition = f"{_HL7}/{kind.name}-{parameter.name}"
    return {
        "name": parameter.name,
        "definition": definition,
        "type": parameter.kind.value,
    }
