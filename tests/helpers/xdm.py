"""XDM packages for tests, made by Python's own zipfile; the metadata can be changed in part."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping

__all__ = ["DOCUMENT_OID", "ENTRY_UUID", "metadata", "package", "zipped"]

DOCUMENT_OID = "1.2.840.113619.20.1.1"
SET_OID = "1.2.840.113619.20.2.1"
ENTRY_UUID = "urn:uuid:a6e06ca8-0c75-4064-9e5c-88b9045a96f6"
RIM = "urn:oasis:names:tc:ebxml-regrep:xsd:rim:3.0"
LOINC = "2.16.840.1.113883.6.1"


def slot(name: str, *values: str) -> str:
    inside = "".join(f"<Value>{value}</Value>" for value in values)
    return f'<Slot name="{name}"><ValueList>{inside}</ValueList></Slot>'


def classified(scheme: str, code: str, system: str, display: str) -> str:
    return (
        f'<Classification classificationScheme="urn:uuid:{scheme}" classifiedObject="x" '
        f'nodeRepresentation="{code}">{slot("codingScheme", system)}'
        f'<Name><LocalizedString value="{display}"/></Name></Classification>'
    )


def author(scheme: str) -> str:
    return (
        f'<Classification classificationScheme="urn:uuid:{scheme}" nodeRepresentation="">'
        + slot("authorPerson", "^Wells^Alice^^^Dr.^^^&amp;1.3.6.1.4.1.1&amp;ISO")
        + slot("authorInstitution", "Lakeview Clinic^^^^^^^^^1.3.6.1.4.1.2")
        + "</Classification>"
    )


def external(scheme: str, value: str, name: str) -> str:
    return (
        f'<ExternalIdentifier identificationScheme="urn:uuid:{scheme}" value="{value}">'
        f'<Name><LocalizedString value="{name}"/></Name></ExternalIdentifier>'
    )


def metadata(
    octets: bytes,
    *,
    uri: str = "DOC0001.XML",
    sha1: str | None = None,
    size: str | None = None,
    mime_type: str = "text/xml",
    patient: str = "PID-5|Helberg^Caroline^B.^^^",
    before: str = '<?xml version="1.0" encoding="UTF-8"?>',
) -> bytes:
    """Return the metadata of one document with these octets."""
    pid = "444222222^^^&amp;2.16.840.1.113883.4.1&amp;ISO"
    return (
        f'{before}<lcm:SubmitObjectsRequest xmlns:lcm="urn:oasis:names:tc:ebxml-regrep:xsd:lcm:3.0"'
        f' xmlns="{RIM}"><RegistryObjectList>'
        f'<ExtrinsicObject id="{ENTRY_UUID}" mimeType="{mime_type}" '
        'objectType="urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1">'
        + slot("creationTime", "20260102093000")
        + slot("hash", hashlib.sha1(octets).hexdigest() if sha1 is None else sha1)
        + slot("languageCode", "en-US")
        + slot("serviceStartTime", "202512")
        + slot("size", str(len(octets)) if size is None else size)
        + slot("sourcePatientId", pid)
        + slot("sourcePatientInfo", f"PID-3|{pid}", patient, "PID-7|19700501", "PID-8|F")
        + slot("URI", uri)
        + '<Name><LocalizedString value="Discharge summary"/></Name>'
        + '<Description><LocalizedString value="of the last stay"/></Description>'
        + author("93606bcf-9494-43ec-9b4e-a7748d1a838d")
        + classified("41a5887f-8865-4c09-adf7-e362475b143a", "18842-5", LOINC, "Summary")
        + classified(
            "f4f85eac-e6cb-4883-b524-f2705394840f", "R", "2.16.840.1.113883.5.25", "Restricted"
        )
        + classified(
            "a09d5840-386c-46f2-b5ad-9c3699a4309d",
            "urn:hl7-org:sdwg:ccda-structuredBody:1.1",
            "1.3.6.1.4.1.19376.1.2.3",
            "C-CDA",
        )
        + classified(
            "f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1", "HOSP", "not an OID or a URI", "Hospital"
        )
        + classified("f0306f51-975f-434e-a61c-c59651d33983", "34133-9", LOINC, "Episode")
        + external("58a6f841-87b3-4a3e-92fd-a8ffeff98427", pid, "XDSDocumentEntry.patientId")
        + external(
            "2e82c1f6-a085-4c72-9da3-8640a32e42ab", DOCUMENT_OID, "XDSDocumentEntry.uniqueId"
        )
        + "</ExtrinsicObject>"
        '<RegistryPackage id="SubmissionSet01">'
        + slot("submissionTime", "20260102093100")
        + slot("intendedRecipient", "|^Rivera^Ana|^^Internet^Anna@direct.hillside.example")
        + '<Name><LocalizedString value="Referral"/></Name>'
        + author("a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d")
        + classified("aa543740-bdda-424e-8c96-df4873be8500", "18842-5", LOINC, "Summary")
        + external("96fdda7c-d067-4183-912e-bf5ee74998a8", SET_OID, "XDSSubmissionSet.uniqueId")
        + external("554ac39e-e3fe-47fe-b233-965d2a147832", "1.2.3.4.5", "sourceId")
        + "</RegistryPackage>"
        '<Classification classifiedObject="SubmissionSet01" '
        'classificationNode="urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"/>'
        '<Association associationType="urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember" '
        f'sourceObject="SubmissionSet01" targetObject="{ENTRY_UUID}">'
        + slot("SubmissionSetStatus", "Original")
        + "</Association></RegistryObjectList></lcm:SubmitObjectsRequest>"
    ).encode()


def package(octets: bytes, *, about: bytes | None = None, name: str = "DOC0001.XML") -> bytes:
    """Return the package of one document, as XD-002 lays it out."""
    return zipped(
        {
            "INDEX.HTM": b"<html/>",
            "README.TXT": b"read me",
            "IHE_XDM/": b"",
            "IHE_XDM/SUBSET01/": b"",
            "IHE_XDM/SUBSET01/METADATA.XML": metadata(octets) if about is None else about,
            f"IHE_XDM/SUBSET01/{name}": octets,
        }
    )


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive of `files`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, octets in files.items():
            archive.writestr(zipfile.ZipInfo(name), octets, method)
    return buffer.getvalue()
