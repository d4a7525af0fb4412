"""The rule of an EMR's report of totals: it is kept beside the books and changes nothing in them."""

from __future__ import annotations

from typing import Any

from services.ledger.domain.books import Books
from services.ledger.domain.commands import Command
from services.ledger.domain.journal import Journal
from services.ledger.domain.later_acts import EmrTotals
from shared.errors import Invalid
from shared.ids import uuid7


def emr_totals(books: Books, journal: Journal, command: Command, act: EmrTotals) -> dict[str, Any]:
    """Answers as other EMR events do; every report is kept, and the latest is the one that counts."""
    named = (one for one in books.locations.values() if one.emr_location_id == act.clinic)
    location = books.locations.get(act.location_id) if act.location_id else next(named, None)
    if location is None or not location.active:
        raise Invalid.field(
            "data.emr_clinic_id", "unknown_clinic", "No location of the client's companies has this clinic"
        )
    journal.add(
        "emr_totals",
        company_id=books.company_id,
        source=act.source,
        clinic=act.clinic,
        day=act.day,
        report_id=uuid7(),
        location_id=location.location_id,
        # A report cannot be from the future: by a clock that runs ahead it would hold for ever.
        reported_at=min(act.reported_at or books.now, books.now),
        totals=act.totals,
        payments=act.payments,
    )
    return {"outcome": "posted", "reason": None, "document_id": None}
