"""Access in an emergency (45 CFR 164.312(a)(2)(ii), quality 3.1): the operator opens one company for minutes, with a
reason, sees everything in it and changes nothing. Everybody hears of it: an alert, the audit, the company's own list.

A grant gives access tokens that live no longer than it does, and nothing that renews itself: each next one is asked for
with the operator's own token, and refused once the grant has ended. Ending it early makes those that are out stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from services.identity.domain import BreakGlass, User
from services.identity.service.acts import Act, administration, current_editor, current_user
from services.identity.service.issuing import SessionIssuer, Tokens, person_claims
from services.identity.service.persons import person
from services.identity.store import break_glass as store
from services.identity.store import companies
from shared.access.policy import BREAK_GLASS
from shared.access.principal import Principal
from shared.audit import alert
from shared.db import acquire
from shared.errors import Invalid, NotFound
from shared.ids import uuid7

CLIENT_ID: Final = "break-glass"


class Emergencies:
    """Opening, going on, looking and ending."""

    def __init__(self, pool: asyncpg.Pool, issuing: SessionIssuer) -> None:
        self._pool = pool
        self._issuing = issuing

    async def open(self, caller: Principal, company_id: UUID, reason: str, minutes: int) -> tuple[BreakGlass, Tokens]:
        """Raises Invalid for a company that is not there, and Forbidden where the sign-in is not fresh."""
        now = datetime.now(UTC)
        grant = BreakGlass(uuid7(), company_id, caller.subject, reason, now, now + timedelta(minutes=minutes))
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            me.require_recent("open a company")
            if await companies.company(act.connection, company_id) is None:
                raise Invalid.field("company_id", "unknown_company", "There is no such company")
            await store.insert(act.connection, grant)
            await act.audit("break_glass_opened", grant.id, [company_id], minutes=minutes)
            tokens = await self._token(act, me.user, grant, now)
        alert("break_glass_opened", grant_id=grant.id, company_id=company_id, minutes=minutes)
        return grant, tokens

    async def renew(self, caller: Principal, grant_id: UUID) -> Tokens:
        """The next token of a grant that is open and the caller's own; else NotFound."""
        now = datetime.now(UTC)
        async with administration(self._pool, caller) as act:
            user = await current_user(act.connection, caller)
            grant = await store.open_grant(act.connection, grant_id, now)
            if grant is None or grant.user_id != user.id:
                raise NotFound()
            await act.audit("break_glass_renewed", grant.id, [grant.company_id])
            return await self._token(act, user, grant, now)

    async def open_grants(self, caller: Principal, after: UUID | None, limit: int) -> Sequence[BreakGlass]:
        """Those of the caller's company; the operator's are all."""
        company_id = None if caller.is_operator else caller.company
        async with acquire(self._pool) as connection:
            return await store.list_open(connection, company_id, after, limit, datetime.now(UTC))

    async def end(self, caller: Principal, grant_id: UUID) -> None:
        """By the operator, or by an administrator of the company, at once: the user's tokens become stale."""
        now = datetime.now(UTC)
        async with administration(self._pool, caller) as act:
            editor = await current_editor(act.connection, caller)
            grant = await store.open_grant(act.connection, grant_id, now)
            if grant is None or not (editor.is_operator or editor.active_company_id == grant.company_id):
                raise NotFound()
            await act.withdraw_tokens(grant.user_id)
            await store.end(act.connection, grant.id, now, editor.id)
            await act.audit("break_glass_ended", grant.id, [grant.company_id])
        alert("break_glass_ended", grant_id=grant.id, company_id=grant.company_id)

    async def _token(self, act: Act, user: User, grant: BreakGlass, now: datetime) -> Tokens:
        left = int((grant.expires_at - now).total_seconds())
        if left < 1:
            raise NotFound()
        claims = replace(person_claims(user, grant.company_id), role=BREAK_GLASS, client_id=CLIENT_ID, locations="*")
        return await self._issuing.for_minutes(act.connection, claims, left)
