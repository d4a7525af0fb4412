"""The demo's payers, patients and charges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from deploy.demo.api import Caller
from deploy.demo.practice import Practice

PAYERS: Final[tuple[dict[str, Any], ...]] = (
    {"code": "BLUE", "name": "Blue Heron Health", "payer_class": "commercial", "era_payer_ids": ["BH001"]},
    {"code": "HARBOR", "name": "HarborCare", "payer_class": "commercial", "era_payer_ids": ["HC002"]},
    {"code": "MCARE", "name": "Medicare Part B", "payer_class": "medicare", "era_payer_ids": ["MC003"]},
)


@dataclass(frozen=True, slots=True)
class Patient:
    account: str
    first_name: str
    last_name: str
    born: str
    location: str
    payer: str | None


PATIENTS: Final = (
    Patient("RVR-1001", "Ava", "Reyes", "1984-03-12", "DTN", "BLUE"),
    Patient("RVR-1002", "Ben", "Okafor", "1971-11-02", "DTN", "BLUE"),
    Patient("RVR-1003", "Carla", "Lind", "1990-07-25", "NTH", "HARBOR"),
    Patient("RVR-1004", "Dmitri", "Vance", "1966-01-30", "NTH", "HARBOR"),
    Patient("RVR-1005", "Elena", "Moss", "1949-09-09", "LKS", "MCARE"),
    Patient("RVR-1006", "Felix", "Tran", "1952-05-17", "LKS", "MCARE"),
    Patient("RVR-1007", "Grace", "Whitlock", "1988-12-21", "NTH", "BLUE"),
    Patient("RVR-1008", "Hugo", "Sample", "1995-08-04", "DTN", None),
)

EVALUATION, EXERCISE, MANUAL_THERAPY = "97161", "97110", "97140"
PRICE: Final = {EVALUATION: 150_00, EXERCISE: 95_00, MANUAL_THERAPY: 70_00}
VISITS: Final = {1: (EVALUATION, EXERCISE), 2: (EXERCISE, MANUAL_THERAPY)}
_DAYS_AGO: Final = {1: 24, 2: 17}


@dataclass(frozen=True, slots=True)
class Books:
    """Ids by the names that the demo uses, and the day on which it was begun: every date is counted from it."""

    day: date
    payers: dict[str, str]
    patients: dict[str, str]
    charges: dict[tuple[str, int, str], str]
    """By patient's number, visit and code: `(1001, 1, EVALUATION)`."""

    def ago(self, days: int) -> str:
        return (self.day - timedelta(days=days)).isoformat()

    def visited(self, visit: int) -> date:
        return self.day - timedelta(days=_DAYS_AGO[visit])


def number(account: str) -> str:
    """`RVR-1001` -> `1001`."""
    return account.rpartition("-")[2]


async def open_books(practice: Practice, day: date) -> Books:
    """Add what is missing. Payers and patients are found by their codes, charges keep to their keys."""
    admin = practice["partner.admin"]
    payers = await _missing(admin, "/ledger/v1/payers", "code", PAYERS)
    patients = await _missing(admin, "/ledger/v1/patients", "account_number", [_patient(p, payers) for p in PATIENTS])
    books = Books(day, payers, {number(account): found for account, found in patients.items()}, {})
    for patient in PATIENTS:
        for visit, codes in VISITS.items():
            for code in codes:
                body = _charge(books, patient, practice.locations[patient.location], visit, code)
                made = await practice["front.office"].post(
                    "/ledger/v1/charges", body, key=f"demo-charge-{body['external_id']}"
                )
                books.charges[number(patient.account), visit, code] = made["id"]
    return books


async def _missing(caller: Caller, path: str, name: str, bodies: Sequence[dict[str, Any]]) -> dict[str, str]:
    known = {row[name]: row["id"] for row in await caller.everything(path)}
    for body in bodies:
        if body[name] not in known:
            known[body[name]] = (await caller.post(path, body))["id"]
    return known


def _patient(patient: Patient, payers: dict[str, str]) -> dict[str, Any]:
    return {
        "account_number": patient.account,
        "first_name": patient.first_name,
        "last_name": patient.last_name,
        "date_of_birth": patient.born,
        "payer_id": payers[patient.payer] if patient.payer else None,
    }


def _charge(books: Books, patient: Patient, location_id: str, visit: int, code: str) -> dict[str, Any]:
    return {
        "patient_id": books.patients[number(patient.account)],
        "location_id": location_id,
        "date_of_service": books.visited(visit).isoformat(),
        "procedure_code": code,
        "modifiers": ["GP"],
        "units": 1,
        "amount_cents": PRICE[code],
        "diagnosis_codes": ["M54.50"],
        "payer_id": books.payers[patient.payer] if patient.payer else None,
        "external_id": f"{patient.account}-{visit}-{code}",
    }
