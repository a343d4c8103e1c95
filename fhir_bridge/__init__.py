"""REST to MIME and back: the FHIR R4 messaging API. Knows no SMTP and no S/MIME."""
