"""`GET /v1/audit`: each service shows its own part of the audit, in the same words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from shared import audit
from shared.access.principal import Guard
from shared.db import Connection
from shared.errors import Invalid
from shared.fields import Id, IsoDate, Line, Query
from shared.recorder import ROWS
from shared.web.endpoint import Call, Endpoint, json_response


class AuditQuery(Query):
    """`actor`: whose acts; `subject`: the object acted on, or shown in a list; `from` and `to`: days in UTC, both
    included."""

    limit: int = Field(default=50, ge=1, le=500)
    cursor: Id | None = None
    actor: Id | None = None
    subject: Id | None = None
    action: Line | None = None
    first: IsoDate | None = Field(default=None, alias="from")
    last: IsoDate | None = Field(default=None, alias="to")


class AuditDocument(BaseModel):
    """One entry. `changed` names fields, `shown` the objects that a list showed, `details` what was asked for (a
    filter whose value is not kept is null), how many rows were shown, in which form, or how somebody signed in."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    id: UUID
    at: datetime
    action: str
    actor_id: UUID | None
    actor_name: str
    actor_role: str | None
    subject_id: str | None
    changed: tuple[str, ...]
    shown: tuple[UUID, ...]
    details: Mapping[str, Any]
    status: int | None
    address: str | None
    request_id: str | None


class AuditPage(BaseModel):
    """Newest first."""

    items: tuple[AuditDocument, ...]
    next: UUID | None


def audit_endpoint(guard: Guard, connection: Callable[[Call], AbstractAsyncContextManager[Connection]]) -> Endpoint:
    """The route. `connection` gives one to read by on behalf of the caller. He sees his company's entries; the
    operator, who has no company, those of all."""

    async def show(call: Call) -> web.StreamResponse:
        query: AuditQuery = call.query
        if query.first is not None and query.last is not None and query.first > query.last:
            raise Invalid.field("to", "range", "The range ends before it begins")
        company_id = None if call.principal.is_operator else call.principal.company
        async with connection(call) as opened:
            found = await audit.listing(
                opened,
                company_id,
                before=query.cursor,
                limit=query.limit + 1,
                actor=query.actor,
                subject=query.subject,
                action=query.action,
                first=query.first,
                last=query.last,
            )
        shown = [AuditDocument.model_validate(one) for one in found[: query.limit]]
        following = shown[-1].id if len(found) > query.limit else None
        response = json_response(AuditPage(items=tuple(shown), next=following).model_dump_json().encode())
        response[ROWS] = len(shown)
        return response

    return Endpoint(
        "GET", "/v1/audit", show, guard, "Who did and saw what, newest first", query=AuditQuery, answer=AuditPage
    )
