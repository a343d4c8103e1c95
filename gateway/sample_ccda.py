"""A sample clinical document: a Continuity of Care Document of about 100 kB.

Pure and deterministic. The sandbox, the benchmarks and the tests send it; it has the shape, weight
and vocabulary of what an EHR exports, about a person who does not exist.

Standards:
    CDA     HL7 Clinical Document Architecture R2
    C-CDA   HL7 Consolidated CDA R2.1, Continuity of Care Document (template ids beside each part)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5
from xml.etree.ElementTree import Element, indent, tostring

from gateway.sample_cda import (
    CPT,
    CVX,
    LOINC,
    RXNORM,
    SNOMED,
    System,
    code_of,
    custodian,
    date_of,
    device_author,
    element,
    record_target,
    table_of,
    template_id,
    time_of,
)
from gateway.sample_data import (
    ALLERGIES,
    ENCOUNTERS,
    IMMUNIZATIONS,
    MEDICATIONS,
    PATIENTS,
    PLAN,
    PROBLEMS,
    PROCEDURES,
    RESULTS,
    VITAL_SIGNS,
    Coded,
    Measured,
)

__all__ = ["continuity_of_care_document"]

_OURS: Final = UUID("6f2f1c1e-7d0a-5a7b-9d3c-1f4b7a9e2c55")

_VISITS: Final = 2
_DAY: Final = timedelta(days=1)


def continuity_of_care_document(*, now: datetime, seed: int = 0) -> bytes:
    """Return the document as UTF-8 XML; the same `now` and `seed` give the same octets.

    `seed` chooses the patient and varies the values.
    """
    return _Document(now, seed).xml()


class _Document:
    """One document under construction."""

    def __init__(self, now: datetime, seed: int) -> None:
        self._now = now
        self._seed = seed
        self._patient = PATIENTS[seed % len(PATIENTS)]
        self._ids = 0

    def xml(self) -> bytes:
        root = element(
            "ClinicalDocument",
            element("realmCode", code="US"),
            element("typeId", root="2.16.840.1.113883.1.3", extension="POCD_HD000040"),
            template_id("1.1"),  # US Realm Header
            template_id("1.2"),  # Continuity of Care Document
            self._id(),
            code_of("34133-9", "Summarization of Episode Note", LOINC),
            element("title", f"Continuity of Care Document: {self._name()}"),
            element("effectiveTime", value=time_of(self._now)),
            element("confidentialityCode", code="N", codeSystem="2.16.840.1.113883.5.25"),
            element("languageCode", code="en-US"),
            record_target(self._patient, f"MRN-{10_000 + self._seed}"),
            device_author(self._patient.city, self._now),
            custodian(self._patient.city, self._id()),
            self._service_event(),
            element(
                "component",
                element("structuredBody", *(element("component", s) for s in self._sections())),
            ),
        )
        root.set("xmlns", "urn:hl7-org:v3")
        root.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
        root.set("xmlns:sdtc", "urn:hl7-org:sdtc")
        indent(root, space=" ")
        octets: bytes = tostring(root, encoding="UTF-8", xml_declaration=True)
        return octets + b"\n"

    def _sections(self) -> Iterable[Element]:
        yield self._coded_section(
            "2.6.1", "48765-2", "Allergies and adverse reactions", "Reaction", ALLERGIES, RXNORM,
            entry=("4.30", "act"),
        )  # fmt: skip
        yield self._coded_section(
            "2.1.1", "10160-0", "History of medication use", "Directions", MEDICATIONS, RXNORM,
            entry=("4.16", "substanceAdministration"),
        )  # fmt: skip
        yield self._coded_section(
            "2.5.1", "11450-4", "Problem list", "Status", PROBLEMS, SNOMED, entry=("4.3", "act")
        )
        yield self._measured_section("2.3.1", "30954-2", "Results", RESULTS, ("4.1", "4.2"))
        yield self._measured_section(
            "2.4.1", "8716-3", "Vital signs", VITAL_SIGNS, ("4.26", "4.27")
        )
        yield self._coded_section(
            "2.2.1", "11369-6", "History of immunizations", "Site", IMMUNIZATIONS, CVX,
            entry=("4.52", "substanceAdministration"),
        )  # fmt: skip
        yield self._coded_section(
            "2.22.1", "46240-8", "Encounters", "Reason", ENCOUNTERS, CPT,
            entry=("4.49", "encounter"),
        )  # fmt: skip
        yield self._coded_section(
            "2.7.1", "47519-4", "History of procedures", "Finding", PROCEDURES, SNOMED,
            entry=("4.14", "procedure"),
        )  # fmt: skip
        yield self._coded_section(
            "2.10", "18776-5", "Plan of treatment", "When", PLAN, LOINC,
            entry=("4.44", "observation"),
        )  # fmt: skip

    def _coded_section(
        self,
        template: str,
        loinc: str,
        title: str,
        noted: str,
        things: Sequence[Coded],
        system: System,
        *,
        entry: tuple[str, str],
    ) -> Element:
        rows = [
            (thing.display, thing.code, date_of(self._past(n)), thing.note)
            for n, thing in enumerate(things)
        ]
        return element(
            "section",
            template_id(template),
            code_of(loinc, title, LOINC),
            element("title", title),
            table_of(("Name", "Code", "Date", noted), rows, template),
            *(self._coded_entry(n, thing, system, *entry) for n, thing in enumerate(things)),
        )

    def _coded_entry(
        self, number: int, thing: Coded, system: System, template: str, act: str
    ) -> Element:
        since = self._past(number)
        return element(
            "entry",
            element(
                act,
                template_id(template),
                self._id(),
                code_of(thing.code, thing.display, system),
                element("text", element("reference", value=f"#{act}-{thing.code}")),
                element("statusCode", code="completed" if thing.note == "resolved" else "active"),
                element("effectiveTime", element("low", value=time_of(since))),
                self._performer(since),
                element(
                    "entryRelationship",
                    element(
                        "observation",
                        template_id("4.64"),  # Comment Activity
                        self._id(),
                        code_of("48767-8", "Annotation comment", LOINC),
                        element("text", thing.note),
                        element("statusCode", code="completed"),
                        element("effectiveTime", value=time_of(since)),
                        classCode="OBS",
                        moodCode="EVN",
                    ),
                    typeCode="SUBJ",
                ),
                classCode=_CLASS_CODES[act],
                moodCode="INT" if template == "4.44" else "EVN",
            ),
            typeCode="DRIV",
        )

    def _measured_section(
        self,
        template: str,
        loinc: str,
        title: str,
        things: Sequence[Measured],
        templates: tuple[str, str],
    ) -> Element:
        visits = [self._past(visit) for visit in range(_VISITS)]
        rows = [
            (thing.display, self._value(thing, visit, n), thing.unit, date_of(when))
            for visit, when in enumerate(visits)
            for n, thing in enumerate(things)
        ]
        return element(
            "section",
            template_id(template),
            code_of(loinc, title, LOINC),
            element("title", title),
            table_of(("Test", "Value", "Unit", "Date"), rows, template),
            *(
                self._panel(visit, when, title, things, templates)
                for visit, when in enumerate(visits)
            ),
        )

    def _panel(
        self,
        visit: int,
        when: datetime,
        title: str,
        things: Sequence[Measured],
        templates: tuple[str, str],
    ) -> Element:
        organizer, observation = templates
        return element(
            "entry",
            element(
                "organizer",
                template_id(organizer),
                self._id(),
                code_of("74728-7" if title == "Vital signs" else "24323-8", title, LOINC),
                element("statusCode", code="completed"),
                element("effectiveTime", value=time_of(when)),
                *(
                    element("component", self._observation(visit, n, when, thing, observation))
                    for n, thing in enumerate(things)
                ),
                classCode="CLUSTER",
                moodCode="EVN",
            ),
            typeCode="DRIV",
        )

    def _observation(
        self, visit: int, number: int, when: datetime, thing: Measured, template: str
    ) -> Element:
        value = self._value(thing, visit, number)
        high = float(value) > thing.high
        return element(
            "observation",
            template_id(template),
            self._id(),
            code_of(thing.code, thing.display, LOINC),
            element("statusCode", code="completed"),
            element("effectiveTime", value=time_of(when)),
            element("value", value=value, unit=thing.unit, **{"xsi:type": "PQ"}),
            element(
                "interpretationCode",
                code="H" if high else "N",
                codeSystem="2.16.840.1.113883.5.83",
            ),
            element(
                "referenceRange",
                element(
                    "observationRange",
                    element(
                        "value",
                        element("low", value=f"{thing.low:g}", unit=thing.unit),
                        element("high", value=f"{thing.high:g}", unit=thing.unit),
                        **{"xsi:type": "IVL_PQ"},
                    ),
                ),
            ),
            classCode="OBS",
            moodCode="EVN",
        )

    def _service_event(self) -> Element:
        return element(
            "documentationOf",
            element(
                "serviceEvent",
                element(
                    "effectiveTime",
                    element("low", value=time_of(self._past(_VISITS))),
                    element("high", value=time_of(self._now)),
                ),
                classCode="PCPR",
            ),
        )

    def _performer(self, when: datetime) -> Element:
        return element(
            "author",
            template_id("4.119"),  # Author Participation
            element("time", value=time_of(when)),
            element(
                "assignedAuthor",
                self._id(),
                element(
                    "assignedPerson",
                    element(
                        "name",
                        element("given", "Ines"),
                        element("family", "Halloran"),
                        element("suffix", "MD"),
                    ),
                ),
            ),
        )

    def _name(self) -> str:
        return f"{self._patient.given} {self._patient.family}"

    def _id(self) -> Element:
        self._ids += 1
        return element("id", root=str(uuid5(_OURS, f"{self._seed}/{self._ids}")))

    def _past(self, step: int) -> datetime:
        return self._now - (30 + 47 * step + self._seed % 11) * _DAY

    def _value(self, thing: Measured, visit: int, number: int) -> str:
        # Spread over the normal range and a little above it.
        share = (31 * visit + 17 * number + 7 * self._seed) % 23 / 20
        return f"{thing.low + share * (thing.high - thing.low):.1f}"


_CLASS_CODES: Final = {
    "act": "ACT",
    "encounter": "ENC",
    "observation": "OBS",
    "procedure": "PROC",
    "substanceAdministration": "SBADM",
}
