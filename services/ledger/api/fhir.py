"""FHIR R4 by HTTP: charges and payments, single or in a Bundle; and what may be sent here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from io import BytesIO
from typing import Any

import orjson
from aiohttp import web

from services.ledger.answers_feeds import CapabilityStatement, FeedDocument, OperationOutcome
from services.ledger.api.common import ledger, readers, whole
from services.ledger.feeds import files, intake
from services.ledger.feeds.fhir.answer import MEDIA_TYPE, capability_statement, operation_outcome
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import Outcome
from services.ledger.feeds.fhir_input import FhirInput, FhirUnreadable, alone
from services.ledger.feeds.files import Arrival
from shared.access.principal import Guard
from shared.errors import PayloadTooLarge
from shared.web import Call, Endpoint, json_response
from shared.web.endpoint import refused_by

_UPLOAD = Guard(any_of=(("payment_posting", "edit"),), emr=True)
_VERSION, _RELEASED = "1", date(2026, 11, 21)
"""Of what the CapabilityStatement says."""
_NOT_JSON = ("not_json", "duplicate_key", "not_a_number")


async def resources(call: Call) -> web.Response:
    """The feed, when there was something that could be read. Otherwise an OperationOutcome, and nothing is stored:
    400 for what is no JSON, 413 for what is too large, 422 for the rest."""
    try:
        body = await whole(call.request)
    except PayloadTooLarge:
        return _refusal([alone(Issue("too_large"))], 413)
    company_id, client_id = call.principal.company, call.principal.client_id
    reading = files.fhir(FhirInput(client_id=client_id if call.principal.is_emr else None))
    try:
        post = await reading.examine([body])
    except FhirUnreadable as unreadable:
        refused = unreadable.refused
        return _refusal(refused, 400 if refused[0].issues[0].code in _NOT_JSON else 422)
    digest = hashlib.sha256(body).digest()
    arrival = Arrival(company_id, "http", client_id, digest, len(body), BytesIO(body))
    async with files.turn(ledger(call), arrival):
        feed = await files.keep(ledger(call), reading, arrival)
        await post(ledger(call), feed, call.correlation_id)
    return json_response(await intake.read_feed(readers(call), company_id, feed.feed_id))


async def metadata(_: Call) -> web.Response:
    return _fhir(capability_statement(software_version=_VERSION, released=_RELEASED))


def _refusal(outcomes: Sequence[Outcome], status: int) -> web.Response:
    response = _fhir(operation_outcome(outcomes), status)
    refused_by(response, "resources_refused", (issue.code for one in outcomes for issue in one.issues))
    return response


def _fhir(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type=MEDIA_TYPE)


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/feeds/fhir",
        resources,
        _UPLOAD,
        "Send FHIR R4 charges and payments, single or in a Bundle",
        raw_types=(MEDIA_TYPE, "application/json"),
        answer=FeedDocument,
        refusal=OperationOutcome,
    ),
    Endpoint(
        "GET",
        "/v1/feeds/fhir/metadata",
        metadata,
        _UPLOAD,
        "What FHIR may be sent (CapabilityStatement)",
        answer=CapabilityStatement,
        answer_type=MEDIA_TYPE,
    ),
)
