"""What Medplum's clients need beyond FHIR R4.

Pure. They say who they are by the header `X-Medplum`; nobody else gets any of this.

Standards:
    fhir.md section 1.8: what MedplumClient needs, from reading and running it
"""

from __future__ import annotations

from collections.abc import Mapping

from fhir_bridge.terms import JSON

__all__ = ["as_medplum"]


def as_medplum(headers: Mapping[str, str], binary: JSON) -> JSON:
    """Return a new Binary with the `url` that Medplum's createAttachment copies from it.

    R4 has no such element: it is there for its clients only.
    """
    if "x-medplum" not in headers:
        return binary
    return {**binary, "url": f"Binary/{binary['id']}"}
