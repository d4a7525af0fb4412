"""Bodies and queries about feeds: the quarantine, mappings, reconciliation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from services.ledger.wire import Page
from shared.fields import Body, Id, IsoDate, Line, Memo, Npi, PositiveCents, ProcedureCode, Query


class ExceptionsQuery(Page):
    feed_id: Id | None = None
    source: Line | None = None
    reason: Line | None = None
    state: Literal["open", "retried", "resolved", "dismissed"] | None = None
    sort: Literal["-created_at", "created_at"] = "-created_at"


class NoteIn(Body):
    """Why a person closes an exception."""

    note: Memo


class RetryIn(Body):
    """Which exceptions to try again: these, or the open ones of a feed, of a reason, or both, oldest first; `cursor`
    goes on after the `next` of the answer before."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=200)] | None = None
    feed_id: Id | None = None
    reason: Line | None = None
    cursor: Id | None = None


class ClinicMapping(Body):
    alias: Line
    location_id: Id


class PayerMapping(Body):
    alias: Line
    payer_id: Id


class ProcedureMapping(Body):
    alias: Line
    procedure_code: ProcedureCode


class PayeeMapping(Body):
    """What payers call the company where they name no NPI: its tax id, a number of theirs, its name."""

    alias: Line
    npi: Npi


class MappingsIn(Body):
    """All mappings of the company, as they shall be: what is left out is taken away."""

    clinics: Annotated[list[ClinicMapping], Field(max_length=2_000)]
    payers: Annotated[list[PayerMapping], Field(max_length=5_000)]
    procedures: Annotated[list[ProcedureMapping], Field(max_length=5_000)]
    payees: Annotated[list[PayeeMapping], Field(max_length=500, default_factory=list)]


class FeeIn(Body):
    procedure_code: ProcedureCode
    amount_cents: PositiveCents


class FeesIn(Body):
    """The whole fee schedule, as it shall be: what is left out is taken away."""

    fees: Annotated[list[FeeIn], Field(max_length=5_000)]


class ReconciliationQuery(Query):
    from_: Annotated[IsoDate, Field(alias="from")]
    to: IsoDate
    location_id: Id | None = None
