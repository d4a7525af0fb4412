"""An EMR against the books: what it says it sent, and what stands here."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from services.ledger import wire_feeds
from services.ledger.answers_reconciliation import ReconciliationAnswer
from services.ledger.api.common import readers
from services.ledger.domain.emr_facts import Unplaced
from services.ledger.domain.reconcile import STATUSES, Difference, Row, worst
from services.ledger.reconciliation import reconcile
from shared.access.principal import Guard
from shared.errors import Invalid
from shared.web import Call, Endpoint, json_response

_READ = Guard(any_of=(("exception_reports", "view"), ("payment_posting", "view")))
_MOST_DAYS = 31
_MOST_UNPLACED = 500


async def read(call: Call) -> web.Response:
    """Rows by day, location and payment type, of all sources. For people: a client sends, and reads of its feeds what
    became of them (api.md 2)."""
    query: wire_feeds.ReconciliationQuery = call.query
    if not 0 <= (query.to - query.from_).days < _MOST_DAYS:
        raise Invalid.field("to", "range", f"From `from` on, at most {_MOST_DAYS} days")
    company = call.principal.company
    rows, unplaced = await reconcile(readers(call), company, query.from_, query.to, query.location_id)
    counts = Counter(row.status for row in rows)
    return json_response(
        {
            "from": query.from_,
            "to": query.to,
            "status": worst(rows),
            "rows": {status: counts[status] for status in STATUSES},
            "items": [_row(row) for row in rows],
            "unplaced": {
                "payments": len(unplaced),
                "amount_cents": sum(one.waits.amount_cents or 0 for one in unplaced),
                "items": [_unplaced(one) for one in unplaced[:_MOST_UNPLACED]],
            },
            "next": None,
        }
    )


def _row(row: Row) -> dict[str, Any]:
    """A row as callers see it."""
    source, location_id, day, payment_type = row.cell
    return {
        "source": source,
        "emr_clinic_id": row.reports[0].clinic if row.reports else None,
        "location_id": location_id,
        "date": day,
        "payment_type": payment_type,
        "reported_at": max((report.reported_at for report in row.reports), default=None),
        "status": row.status,
        "emr": row.emr,
        "ledger": row.ledger,
        "difference": None if row.emr is None else row.emr - row.ledger,
        "explained": [
            {
                "reason": one.reason,
                "payments": one.figures.payments,
                "amount_cents": one.figures.amount_cents,
                # A message of several payments waits as one.
                "exception_ids": list(dict.fromkeys(one.exception_ids)),
            }
            for one in row.explained
        ],
        "listed": row.listed,
        "differences": None if row.differences is None else [_difference(one) for one in row.differences],
    }


def _unplaced(one: Unplaced) -> dict[str, Any]:
    """What waits, may belong to one of the rows, and cannot be told to."""
    waits = one.waits
    return {
        "exception_id": waits.exception_id,
        "source": one.source or None,
        "emr_payment_id": waits.external_id or None,
        "location_id": one.location_id,
        "date": waits.day,
        "payment_type": waits.payment_type or None,
        "amount_cents": waits.amount_cents,
        "unknown": one.unknown,
    }


def _difference(one: Difference) -> dict[str, Any]:
    stands = one.document.cell() if one.document else None
    return {
        "kind": one.kind,
        "emr_payment_id": one.payment_id,
        "reason": one.reason,
        "explained": one.explained,
        "payments": one.figures.payments,
        "amount_cents": one.figures.amount_cents,
        "exception_id": one.exception_id,
        "emr": one.listed,
        "ledger": one.document
        and {
            "payment_id": one.document.payment_id,
            "version": one.document.version,
            "deleted": one.document.deleted,
            "location_id": stands[0][1] if stands else None,
            "date": stands[0][2] if stands else None,
            "payment_type": stands[0][3] if stands else None,
            "amount_cents": stands[1] if stands else None,
        },
    }


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/reconciliation",
        read,
        _READ,
        "What the EMR says it sent against the books, down to the payment",
        query=wire_feeds.ReconciliationQuery,
        answer=ReconciliationAnswer,
    ),
)
