"""What the company charges for a procedure, for HL7 charges that come without an amount from a sender with whom that is
agreed (`missing_amount: fee_schedule`)."""

from __future__ import annotations

from aiohttp import web

from services.ledger import wire_feeds
from services.ledger.answers_feeds import FeesDocument
from services.ledger.api.common import ledger, readers
from services.ledger.feeds import hl7_store
from shared.access.principal import area
from shared.errors import FieldError, Invalid
from shared.web import Call, Endpoint, json_response


async def read(call: Call) -> web.Response:
    return json_response({"fees": await hl7_store.read_fees(readers(call), call.principal.company)})


async def replace(call: Call) -> web.Response:
    """Charges that come later are priced by it; what was posted stays."""
    body: wire_feeds.FeesIn = call.body
    company = call.principal.company
    fees: dict[str, int] = {}
    faults = []
    for place, row in enumerate(body.fees):
        if row.procedure_code in fees:
            faults.append(FieldError(f"fees.{place}.procedure_code", "repeated", "The procedure has a fee above"))
        fees[row.procedure_code] = row.amount_cents
    if faults:
        raise Invalid(errors=faults)
    await ledger(call).learn({company})
    await hl7_store.replace_fees(ledger(call).pool, company, fees)
    return await read(call)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/fee-schedule",
        read,
        area("company_constants"),
        "What the company charges for a procedure",
        answer=FeesDocument,
    ),
    Endpoint(
        "PUT",
        "/v1/fee-schedule",
        replace,
        area("company_constants", "edit"),
        "Replace the fee schedule",
        body=wire_feeds.FeesIn,
        answer=FeesDocument,
    ),
)
