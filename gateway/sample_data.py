"""The invented clinical facts behind `gateway.sample_ccda`.

Pure: tables. Codes and displays are those of the public terminologies (SNOMED CT, LOINC, RxNorm,
CVX); persons, places and values are made up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "ALLERGIES",
    "ENCOUNTERS",
    "IMMUNIZATIONS",
    "MEDICATIONS",
    "PATIENTS",
    "PLAN",
    "PROBLEMS",
    "PROCEDURES",
    "RESULTS",
    "VITAL_SIGNS",
    "Coded",
    "Measured",
    "Patient",
]


class Patient(NamedTuple):
    """Who a document is about. `born` is YYYYMMDD, `gender` an HL7 AdministrativeGender code."""

    given: str
    family: str
    born: str
    gender: str
    street: str
    city: str
    state: str
    zip_code: str


class Coded(NamedTuple):
    """A thing with a code, and what is said of it."""

    code: str
    display: str
    note: str


class Measured(NamedTuple):
    """A quantity: LOINC code, name, unit, lowest and highest normal value."""

    code: str
    display: str
    unit: str
    low: float
    high: float


PATIENTS: Final = (
    Patient("Marguerite", "Oyelaran", "19580412", "F", "14 Quarry Lane", "Hillside", "VT", "05001"),
    Patient("Tobias", "Lindqvist", "19741103", "M", "209 Orchard Row", "Lakeview", "NH", "03301"),
    Patient("Soledad", "Brankovic", "19910726", "F", "7 Mill Pond Road", "Hillside", "VT", "05001"),
    Patient("Everard", "Nakashima", "19460219", "M", "88 Ferry Street", "Lakeview", "NH", "03301"),
)

ALLERGIES: Final = (
    Coded("7980", "Penicillin G", "Hives"),
    Coded("2670", "Codeine", "Shortness of breath"),
    Coded("1191", "Aspirin", "Wheezing"),
    Coded("10831", "Sulfamethoxazole / Trimethoprim", "Rash"),
)

MEDICATIONS: Final = (
    Coded("197361", "Amlodipine 5 MG Oral Tablet", "one tablet daily"),
    Coded("314076", "Lisinopril 10 MG Oral Tablet", "one tablet daily"),
    Coded("860975", "Metformin hydrochloride 500 MG Extended Release Oral Tablet", "twice daily"),
    Coded("617314", "Atorvastatin 10 MG Oral Tablet", "one tablet at bedtime"),
    Coded("745679", "Albuterol 0.09 MG/ACTUAT Metered Dose Inhaler", "two puffs as needed"),
    Coded("966247", "Levothyroxine Sodium 0.05 MG Oral Tablet", "one tablet before breakfast"),
    Coded("310798", "Hydrochlorothiazide 25 MG Oral Tablet", "one tablet in the morning"),
    Coded("402014", "Omeprazole 20 MG Delayed Release Oral Capsule", "one capsule daily"),
    Coded("855332", "Warfarin Sodium 5 MG Oral Tablet", "as directed by the clinic"),
    Coded("313782", "Acetaminophen 325 MG Oral Tablet", "up to four times daily for pain"),
)

PROBLEMS: Final = (
    Coded("59621000", "Essential hypertension", "active"),
    Coded("44054006", "Type 2 diabetes mellitus", "active"),
    Coded("195967001", "Asthma", "active"),
    Coded("55822004", "Hyperlipidemia", "active"),
    Coded("40930008", "Hypothyroidism", "active"),
    Coded("235595009", "Gastroesophageal reflux disease", "active"),
    Coded("49436004", "Atrial fibrillation", "active"),
    Coded("396275006", "Osteoarthritis", "active"),
    Coded("233604007", "Pneumonia", "resolved"),
    Coded("68566005", "Urinary tract infection", "resolved"),
)

RESULTS: Final = (
    Measured("718-7", "Hemoglobin", "g/dL", 12.0, 16.0),
    Measured("4544-3", "Hematocrit", "%", 36.0, 46.0),
    Measured("6690-2", "Leukocytes", "10*3/uL", 4.5, 11.0),
    Measured("777-3", "Platelets", "10*3/uL", 150.0, 400.0),
    Measured("2345-7", "Glucose", "mg/dL", 70.0, 99.0),
    Measured("4548-4", "Hemoglobin A1c", "%", 4.0, 5.6),
    Measured("2160-0", "Creatinine", "mg/dL", 0.6, 1.2),
    Measured("2951-2", "Sodium", "mmol/L", 135.0, 145.0),
    Measured("2823-3", "Potassium", "mmol/L", 3.5, 5.1),
    Measured("3016-3", "Thyrotropin", "m[IU]/L", 0.4, 4.0),
)

VITAL_SIGNS: Final = (
    Measured("8480-6", "Systolic blood pressure", "mm[Hg]", 100.0, 139.0),
    Measured("8462-4", "Diastolic blood pressure", "mm[Hg]", 60.0, 89.0),
    Measured("8867-4", "Heart rate", "/min", 55.0, 95.0),
    Measured("29463-7", "Body weight", "kg", 58.0, 92.0),
    Measured("8302-2", "Body height", "cm", 158.0, 184.0),
)

IMMUNIZATIONS: Final = (
    Coded("140", "Influenza, seasonal, injectable, preservative free", "left deltoid"),
    Coded("33", "Pneumococcal polysaccharide vaccine, 23 valent", "right deltoid"),
    Coded("115", "Tetanus toxoid, reduced diphtheria toxoid, and acellular pertussis", "left"),
    Coded("187", "Zoster vaccine recombinant", "left deltoid"),
    Coded("208", "COVID-19 mRNA vaccine", "right deltoid"),
)

ENCOUNTERS: Final = (
    Coded("99213", "Office outpatient visit 15 minutes", "Follow-up of blood pressure"),
    Coded("99214", "Office outpatient visit 25 minutes", "Review of diabetes and new results"),
    Coded("99283", "Emergency department visit", "Shortness of breath, improved and discharged"),
    Coded("99396", "Periodic preventive medicine visit", "Annual examination"),
)

PROCEDURES: Final = (
    Coded("73761001", "Colonoscopy", "No polyps"),
    Coded("80146002", "Appendectomy", "Without complication"),
    Coded("29303009", "Electrocardiographic procedure", "Sinus rhythm"),
    Coded("399208008", "Plain chest X-ray", "No acute findings"),
)

PLAN: Final = (
    Coded("4548-4", "Hemoglobin A1c", "in three months"),
    Coded("2345-7", "Glucose, fasting", "before the next visit"),
    Coded("24627-2", "CT Chest", "if the cough goes on"),
)
