"""What comes before what it belongs to: it is kept under the name of that, which finds it when it comes itself.

A void that comes before its charge is a state of that charge, and is kept as one (`emr.py`). An adjustment is none: it
waits in the quarantine, and the batch that brings its charge decides it again, under its own key, as a retry would.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any, Final
from uuid import UUID

from services.ledger.domain.commands import Actor, Command
from services.ledger.domain.feed_acts import EmrAdjustment
from services.ledger.domain.feed_items import FeedItem, Retry
from shared.errors import Problem

_NOT_YET: Final = frozenset({"unknown_charge", "charge_void", "over_applied"})
"""What a later state of the charge may put right: it is not here, it was taken back, it is smaller."""


def awaits(command: Command, problem: Problem | None) -> bool:
    """Whether a refused command need only wait for a charge."""
    return problem is not None and problem.code in _NOT_YET and isinstance(command.act, EmrAdjustment)


def parked(command: Command, exception_id: UUID) -> dict[str, Any]:
    """The row of a command that waits, with the exception under which it does."""
    act = command.act
    if not isinstance(act, EmrAdjustment):
        raise TypeError(type(act).__name__)
    waits_source, waits_name = act.waits_for
    return {
        "company_id": command.company_id,
        "exception_id": exception_id,
        "waits_source": waits_source,
        "waits_name": waits_name,
        "command": {
            "key": command.key,
            "route": command.route,
            "body_hash": command.body_hash.hex(),
            "correlation_id": command.correlation_id,
            "actor": asdict(command.actor),
            "act": asdict(act),
        },
    }


def unparked(company_id: UUID, row: dict[str, Any]) -> Command:
    """The command of such a row, as a retry that nobody asked for."""
    said, exception_id = row["command"], UUID(row["exception_id"])
    actor = Actor(**{**said["actor"], "user_id": UUID(said["actor"]["user_id"])})
    day = date.fromisoformat(said["act"]["date_of_service"])
    return Command(
        company_id=company_id,
        key=said["key"],
        route=said["route"],
        body_hash=bytes.fromhex(said["body_hash"]),
        actor=actor,
        correlation_id=said["correlation_id"],
        act=EmrAdjustment(**{**said["act"], "date_of_service": day}),
        item=FeedItem(UUID(row["feed_id"]), exception_id, row["item_key"]),
        retry=Retry(company_id, exception_id, actor.user_id, waited=True),
    )
