"""What the demo's posters post by hand: checks, cash and cards in batches; a correction, a reversal, a refund."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploy.demo.api import Caller
from deploy.demo.books import EVALUATION, EXERCISE, MANUAL_THERAPY, Books
from deploy.demo.practice import Practice

_PAYMENTS = "/ledger/v1/payments"
Line = tuple[str, int, str, int, int]
"""Patient, visit, procedure code, cents applied, cents written off as contractual (CO 45)."""


class Posting:
    """Posts one person's payments, each under a key of its own."""

    def __init__(self, caller: Caller, books: Books, prefix: str) -> None:
        self._caller = caller
        self._books = books
        self._prefix = prefix
        self._count = 0

    def ago(self, days: int) -> str:
        return self._books.ago(days)

    def _key(self) -> str:
        self._count += 1
        return f"demo-{self._prefix}-{self._count}"

    async def payment(
        self, method: str, cents: int, days_ago: int, *lines: Line, payer: str | None = None, **words: Any
    ) -> str:
        """Post a receipt and return its id. Without a payer it is the patient's (`patient=`) own money."""
        books, patient = self._books, words.pop("patient", None)
        body = {
            "method": method,
            "amount_cents": cents,
            "deposit_date": books.ago(days_ago),
            "payer_id": books.payers[payer] if payer else None,
            "patient_id": books.patients[patient] if patient else None,
            "applications": [
                {"charge_id": books.charges[who, visit, code], "amount_cents": paid}
                for who, visit, code, paid, _ in lines
            ],
            "adjustments": self._written_off(lines),
            **words,
        }
        return str((await self._caller.post(_PAYMENTS, body, key=self._key()))["id"])

    def _written_off(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        return [
            {
                "charge_id": self._books.charges[who, visit, code],
                "group_code": "CO",
                "reason_code": "45",
                "amount_cents": cents,
            }
            for who, visit, code, _, cents in lines
            if cents
        ]

    async def act(self, payment_id: str, action: str, body: dict[str, Any]) -> None:
        """A refund or a reversal of a payment."""
        await self._caller.post(f"{_PAYMENTS}/{payment_id}/{action}", body, key=self._key())

    async def correct(self, payment_id: str, **words: Any) -> None:
        await self._caller.patch(f"{_PAYMENTS}/{payment_id}", words)


async def post_all(practice: Practice, books: Books) -> None:
    """Everybody's payments of the last days, in the order in which they would have been posted."""
    await _poster_one(Posting(practice["poster.one"], books, "p1"), practice.locations["DTN"])
    await _poster_two(
        Posting(practice["poster.two"], books, "p2"), practice.locations["NTH"], practice.locations["LKS"]
    )
    await _rcm_staff(Posting(practice["rcm.poster"], books, "rcm"), practice.locations["LKS"])
    await _on_the_phone(Posting(practice["csr"], books, "csr"), practice.locations["NTH"])


async def _poster_one(posting: Posting, downtown: str) -> None:
    """Two checks of a payer, the front desk's takings, a check without a batch, a wrong batch number put right."""
    for patient, check in (("1001", "BH-55120"), ("1002", "BH-55121")):
        lines: tuple[Line, ...] = (
            (patient, 2, EXERCISE, 70_00, 25_00),
            (patient, 2, MANUAL_THERAPY, 52_00, 18_00),
        )
        batch = {"batch_number": "BLUE HERON", "check_number": check, "location_id": downtown}
        await posting.payment("check", 122_00, 6, *lines, payer="BLUE", **batch)
    desk = {"batch_number": "FRONT DESK", "location_id": downtown}
    for patient, method in (("1001", "cash"), ("1002", "credit_card")):
        await posting.payment(method, 15_00, 2, (patient, 1, EVALUATION, 15_00, 0), patient=patient, **desk)
    prepaid = await posting.payment("credit_card", 50_00, 2, patient="1008", memo="Prepaid for June", **desk)
    await posting.payment("cash", 95_00, 2, ("1008", 1, EXERCISE, 95_00, 0), patient="1008", **desk)
    alone = {"check_number": "1042", "location_id": downtown}
    await posting.payment("check", 75_00, 1, ("1008", 1, EVALUATION, 75_00, 0), patient="1008", **alone)
    mistyped = {"batch_number": "FRONT DEKS", "location_id": downtown}
    wrong = await posting.payment("cash", 20_00, 3, patient="1002", **mistyped)
    await posting.correct(wrong, batch_number="FRONT DESK", deposit_date=posting.ago(2))
    await posting.act(prepaid, "refund", {"amount_cents": 20_00, "memo": "Came once less"})


async def _poster_two(posting: Posting, northside: str, lakeside: str) -> None:
    """Three checks of a payer, one above what is owed; patients' money at another clinic; a check that bounced."""
    harbor = {"payer": "HARBOR", "batch_number": "HARBORCARE", "location_id": northside}
    await posting.payment(
        "check",
        119_00,
        4,
        ("1003", 2, EXERCISE, 68_00, 27_00),
        ("1003", 2, MANUAL_THERAPY, 51_00, 19_00),
        check_number="HC-9001",
        **harbor,
    )
    await posting.payment(
        "check",
        173_00,
        4,
        ("1004", 1, EVALUATION, 105_00, 30_00),
        ("1004", 1, EXERCISE, 68_00, 27_00),
        check_number="HC-9002",
        **harbor,
    )
    await posting.payment(
        "check", 100_00, 4, ("1004", 2, EXERCISE, 68_00, 27_00), check_number="HC-9003", memo="Above the bill", **harbor
    )
    lake = {"batch_number": "LAKESIDE 1", "location_id": lakeside}
    await posting.payment("cash", 25_00, 3, ("1005", 2, MANUAL_THERAPY, 25_00, 0), patient="1005", **lake)
    await posting.payment(
        "check", 45_00, 3, ("1006", 1, EVALUATION, 45_00, 0), patient="1006", check_number="2201", **lake
    )
    bounced = await posting.payment(
        "check", 30_00, 3, ("1006", 1, EXERCISE, 30_00, 0), patient="1006", check_number="2202", **lake
    )
    await posting.act(bounced, "reversal", {"memo": "Returned by the bank"})


async def _rcm_staff(posting: Posting, lakeside: str) -> None:
    """Checks posted by staff of the billing company: only Full Access shows them."""
    batch = {"payer": "MCARE", "batch_number": "RCM MEDICARE", "location_id": lakeside}
    await posting.payment("check", 62_00, 5, ("1005", 2, EXERCISE, 62_00, 17_00), check_number="MB-7001", **batch)
    await posting.payment(
        "check",
        108_00,
        5,
        ("1006", 2, EXERCISE, 62_00, 17_00),
        ("1006", 2, MANUAL_THERAPY, 46_00, 12_00),
        check_number="MB-7002",
        **batch,
    )


async def _on_the_phone(posting: Posting, northside: str) -> None:
    words = {"batch_number": "PHONE", "location_id": northside}
    await posting.payment("credit_card", 12_00, 1, ("1003", 1, EVALUATION, 12_00, 0), patient="1003", **words)
