"""What reaches the demo practice by itself: events of its EMR, and remittances of its payers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import orjson

from deploy.demo.books import EVALUATION, EXERCISE, PATIENTS, PAYERS, PRICE, VISITS, Books
from deploy.demo.practice import EMR_SOURCE, Practice
from deploy.demo.x12 import Adjustment, Claim, Line, Remittance, file_of

_WALK_IN: Final = {
    "account_number": "RVR-2001",
    "first_name": "Iris",
    "last_name": "Novak",
    "date_of_birth": "1979-02-14",
}


async def send_emr_events(practice: Practice, books: Books) -> None:
    """One batch of CloudEvents. A later version replaces an earlier one, a deletion takes it back, an internal
    payment never flows; a patient whom the ledger does not know is made from the event."""
    known = {patient.account: patient for patient in PATIENTS}

    def person(account: str) -> dict[str, str]:
        one = known[account]
        return {
            "account_number": one.account,
            "first_name": one.first_name,
            "last_name": one.last_name,
            "date_of_birth": one.born,
        }

    def paid(name: str, clinic: str, who: dict[str, str], cents: int, days: int, kind: str, method: str) -> Any:
        return {
            "payment_id": name,
            "payment_version": 1,
            "emr_clinic_id": clinic,
            "patient": who,
            "amount_cents": cents,
            "method": method,
            "transaction_date": books.ago(days),
            "payment_type": kind,
        }

    card = paid("P-5", "EMR-101", person("RVR-1008"), 40_00, 2, "copay", "credit_card")
    events = [
        _event("posted", paid("P-1", "EMR-101", person("RVR-1001"), 20_00, 3, "copay", "credit_card")),
        _event("posted", paid("P-2", "EMR-102", person("RVR-1003"), 18_00, 3, "coinsurance", "cash")),
        _event("posted", paid("P-3", "EMR-103", person("RVR-1006"), 25_00, 2, "copay", "credit_card")),
        _event("posted", paid("P-4", "EMR-103", _WALK_IN, 30_00, 2, "supplies", "check")),
        _event("posted", card),
        _event("changed", {**card, "payment_version": 2, "amount_cents": 44_00}),
        _event("posted", paid("P-6", "EMR-102", person("RVR-1007"), 15_00, 1, "copay", "cash")),
        _event("deleted", {"payment_id": "P-6", "payment_version": 2, "emr_clinic_id": "EMR-102"}),
        _event("posted", paid("P-7", "EMR-101", person("RVR-1002"), 5_00, 1, "internal", "other")),
        _charge(books, "C-1", "EMR-103", _WALK_IN, EVALUATION),
        _charge(books, "C-2", "EMR-101", person("RVR-1008"), EXERCISE),
    ]
    await practice.emr.upload("/ledger/v1/feeds/emr", orjson.dumps(events), "application/cloudevents-batch+json")


def _event(change: str, data: dict[str, Any], kind: str = "payment") -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{data[f'{kind}_id']}-{data[f'{kind}_version']}",
        "source": EMR_SOURCE,
        "type": f"emr.{kind}.{change}.v1",
        "data": data,
    }


def _charge(books: Books, name: str, clinic: str, who: dict[str, str], code: str) -> dict[str, Any]:
    data = {
        "charge_id": name,
        "charge_version": 1,
        "emr_clinic_id": clinic,
        "patient": who,
        "date_of_service": books.ago(2),
        "procedure_code": code,
        "modifiers": ["GP"],
        "units": 1,
        "amount_cents": PRICE[code],
        "diagnosis_codes": ["M25.511"],
    }
    return _event("posted", data, "charge")


async def send_remittances(practice: Practice, books: Books) -> None:
    """A clean one with a zero pay beside it, one with an amount withheld, one with a claim that nobody knows."""
    evaluation, exercise = (("CO", "45", 25_00), ("PR", "3", 15_00)), (("CO", "45", 25_00),)
    clean = [_first_visit(books, account, evaluation, exercise) for account in ("RVR-1001", "RVR-1002")]
    denied = [_claim(books, "RVR-1007", 2, {code: (("CO", "50", PRICE[code]),) for code in VISITS[2]}, status="4")]
    recovered = [_first_visit(books, "RVR-1003", (("CO", "45", 30_00), ("PR", "1", 15_00)), (("CO", "45", 27_00),))]
    shared = (("CO", "45", 17_00), ("PR", "2", 16_00))
    unknown = [
        _first_visit(books, "RVR-1005", (("CO", "45", 32_50), ("PR", "2", 19_50)), shared),
        _claim(books, "RVR-9999", 1, {EXERCISE: shared}),
    ]
    files = (
        [_remittance(books, 0, "BH-ERA-1", 7, clean), _remittance(books, 0, "BH-ERA-2", 7, denied)],
        [_remittance(books, 1, "HC-ERA-1", 5, recovered, withheld=(("WO:2025-118", 23_00),))],
        [_remittance(books, 2, "MB-ERA-1", 3, unknown)],
    )
    for control, remittances in enumerate(files, 1):
        await practice.emr.upload("/ledger/v1/feeds/x12", file_of(control, remittances), "application/edi-x12")


def _remittance(
    books: Books, payer: int, trace: str, days: int, claims: list[Claim], withheld: tuple[tuple[str, int], ...] = ()
) -> Remittance:
    sender = PAYERS[payer]
    day = books.day - timedelta(days=days)
    return Remittance(trace, sender["era_payer_ids"][0], sender["name"], day, claims, withheld)


def _first_visit(books: Books, account: str, *adjusted: tuple[Adjustment, ...]) -> Claim:
    return _claim(books, account, 1, dict(zip(VISITS[1], adjusted, strict=True)))


def _claim(
    books: Books, account: str, visit: int, adjusted: dict[str, tuple[Adjustment, ...]], status: str = "1"
) -> Claim:
    lines = [Line(code, PRICE[code], adjustments) for code, adjustments in adjusted.items()]
    return Claim(account, books.visited(visit), lines, status)
