"""Reporting's routes for the access matrix. Locations have cases of their own (tests/access/test_reporting.py)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from services.reporting.api import ENDPOINTS
from tests.support.access import Row, ServedByNews, World
from tests.support.databases import Databases
from tests.support.ledger_events import Books
from tests.support.news import News
from tests.support.reporting import ReportingStack

_RANGE: Final = "from=2026-01-01&to=2026-12-31"
_MINE: Final = f"GET /v1/reports/my-payment-activity?{_RANGE}"
_ALL: Final = f"GET /v1/reports/payment-balancing?{_RANGE}"
_FULL: Final = "payment_balancing view & payment_balancing_full_access view"

ROWS: Final = (
    Row("GET /v1/reports", "anyone"),
    Row("GET /v1/audit", "audit_trail view", echoes=True),
    Row(_MINE, "my_payment_activity view"),
    *(Row(f"{_MINE}&level={level}&format={form}", "my_payment_activity view")
      for level in ("check", "patient", "cpt") for form in ("json", "csv")),
    Row(_ALL, "payment_balancing view"),
    Row(f"{_ALL}&level=cpt&facets=true", "payment_balancing view"),
    Row(f"{_ALL}&level=cpt&format=csv", "payment_balancing view"),
    Row(f"{_ALL}&group_by=location,poster,patient,payer&facets=true", "payment_balancing view"),
    Row(f"{_ALL}&variation=full_access", _FULL),
    Row(f"{_ALL}&variation=full_access&level=cpt&format=csv", _FULL),
)  # fmt: skip


class ServedReporting(ServedByNews):
    """Running reports over the books of a company for each caller."""

    rows = ROWS
    endpoints = ENDPOINTS
    outdated = "practice_admin"

    def __init__(self, stack: ReportingStack, news: News) -> None:
        super().__init__(stack.client, stack.owner, stack.tokens, news)
        self.stack = stack
        self.books: dict[str, Books] = {}

    @classmethod
    @asynccontextmanager
    async def fresh(cls, databases: Databases) -> AsyncIterator[ServedReporting]:
        news = News()
        async with ReportingStack.fresh(databases, news) as stack:
            yield cls(stack, news)

    async def world(self, caller: str) -> World:
        """Books of 120 acts; the restricted role is granted the first of three locations."""
        made = self.books[caller] = Books(random.Random(caller)).act(120)
        await self.stack.load(made)
        bound = None if caller in ("operator", "internal") else made.company_id
        token = self.stack.tokens.token(caller, bound, subject=made.practice[0], locations=self.granted(caller))
        return World({}, token, {str(one).encode() for one in _names(made)})

    def granted(self, caller: str) -> list[UUID] | str:
        return self.books[caller].locations[:1] if caller == "front_office_emr_restricted" else "*"


def _names(made: Books) -> list[UUID]:
    return [
        made.company_id,
        *made.locations,
        *made.practice,
        *made.rcm,
        *(patient.patient_id for patient in made.patients),
        *(payer.payer_id for payer in made.payers),
        *(charge.charge_id for charge in made.charges),
        *made.history,
    ]
