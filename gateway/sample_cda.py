"""The building blocks of a CDA document.

Pure.

Standards:
    CDA     HL7 Clinical Document Architecture R2
    C-CDA   HL7 Consolidated CDA R2.1
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from xml.etree.ElementTree import Element

from gateway.sample_data import Patient

__all__ = [
    "CPT",
    "CVX",
    "LOINC",
    "RXNORM",
    "SNOMED",
    "System",
    "code_of",
    "custodian",
    "date_of",
    "device_author",
    "element",
    "record_target",
    "table_of",
    "template_id",
    "time_of",
]

System = tuple[str, str]

SNOMED: Final[System] = ("2.16.840.1.113883.6.96", "SNOMED CT")
LOINC: Final[System] = ("2.16.840.1.113883.6.1", "LOINC")
RXNORM: Final[System] = ("2.16.840.1.113883.6.88", "RxNorm")
CVX: Final[System] = ("2.16.840.1.113883.12.292", "CVX")
CPT: Final[System] = ("2.16.840.1.113883.6.12", "CPT-4")

_CCDA: Final = "2.16.840.1.113883.10.20.22"
_R21: Final = "2015-08-01"


def element(_tag: str, *children: Element | str, **attributes: str) -> Element:
    """Return an element with attributes and children; a string is its text."""
    made = Element(_tag, attributes)
    for child in children:
        if isinstance(child, str):
            made.text = child
        else:
            made.append(child)
    return made


def template_id(suffix: str) -> Element:
    """Return the templateId of a C-CDA R2.1 template."""
    return element("templateId", root=f"{_CCDA}.{suffix}", extension=_R21)


def code_of(code: str, display: str, system: System) -> Element:
    """Return a coded concept."""
    return element(
        "code", code=code, displayName=display, codeSystem=system[0], codeSystemName=system[1]
    )


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> Element:
    """Return the narrative of a section: what a person reads."""
    head = element("thead", element("tr", *(element("th", column) for column in columns)))
    body = element(
        "tbody",
        *(
            element("tr", *(element("td", cell) for cell in row), ID=f"row-{label}-{number}")
            for number, row in enumerate(rows)
        ),
    )
    return element("text", element("table", head, body, border="1", width="100%"))


def record_target(patient: Patient, record_number: str) -> Element:
    """Return who the document is about."""
    return element(
        "recordTarget",
        element(
            "patientRole",
            element("id", root="2.16.840.1.113883.19.5", extension=record_number),
            element(
                "addr",
                element("streetAddressLine", patient.street),
                element("city", patient.city),
                element("state", patient.state),
                element("postalCode", patient.zip_code),
                element("country", "US"),
                use="HP",
            ),
            element("telecom", value="tel:+1-555-0100", use="HP"),
            element(
                "patient",
                element(
                    "name",
                    element("given", patient.given),
                    element("family", patient.family),
                    use="L",
                ),
                element(
                    "administrativeGenderCode",
                    code=patient.gender,
                    codeSystem="2.16.840.1.113883.5.1",
                ),
                element("birthTime", value=patient.born),
            ),
        ),
    )


def device_author(city: str, now: datetime) -> Element:
    """Return the software that made the document."""
    return element(
        "author",
        element("time", value=time_of(now)),
        element(
            "assignedAuthor",
            element("id", nullFlavor="NI"),
            element("addr", element("city", city), element("country", "US")),
            element("telecom", value="tel:+1-555-0101", use="WP"),
            element(
                "assignedAuthoringDevice",
                element("manufacturerModelName", "direct-gateway sample"),
                element("softwareName", "direct-gateway sample"),
            ),
        ),
    )


def custodian(city: str, identity: Element) -> Element:
    """Return the organization that keeps the document."""
    return element(
        "custodian",
        element(
            "assignedCustodian",
            element(
                "representedCustodianOrganization",
                identity,
                element("name", f"{city} Family Practice"),
                element("telecom", value="tel:+1-555-0102", use="WP"),
                element("addr", element("city", city), element("country", "US")),
            ),
        ),
    )


def time_of(when: datetime) -> str:
    """Return an HL7 time stamp in UTC."""
    return f"{when:%Y%m%d%H%M%S}+0000"


def date_of(when: datetime) -> str:
    """Return a date for people."""
    return f"{when:%Y-%m-%d}"
