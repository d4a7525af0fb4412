"""Companies and their locations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.identity.domain import Company, Location
from services.identity.service.acts import Act, administration, changed_fields, current_editor, current_user
from services.identity.service.persons import person
from services.identity.store import access, clients
from services.identity.store import companies as store
from shared.access.principal import Principal
from shared.db import Connection, acquire
from shared.errors import Forbidden, NotFound
from shared.ids import uuid7

_ALL: Final = 1 << 31


class Companies:
    """Members see the companies they are granted, everybody else gets the answer for an absent one (U5, D11)."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(self, caller: Principal, after: UUID | None, limit: int) -> Sequence[Company]:
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            only = None if editor.is_operator else editor.company_ids
            return await store.list_companies(connection, only, after, limit)

    async def get(self, caller: Principal, company_id: UUID) -> Company:
        async with acquire(self._pool) as connection:
            return await _visible(connection, caller, company_id)

    async def create(self, caller: Principal, fields: Mapping[str, Any]) -> Company:
        company = Company(id=uuid7(), **fields)
        async with administration(self._pool, caller) as act:
            await store.insert_company(act.connection, company)
            await act.publish_company(company)
            await act.audit("company_created", company.id, [company.id])
        return company

    async def change(self, caller: Principal, company_id: UUID, fields: Mapping[str, Any]) -> Company:
        """U13: administrators edit the constants of every company they have. Closing a company is the operator's."""
        async with administration(self._pool, caller) as act:
            before = await _administered(act.connection, caller, company_id)
            after = replace(before, **fields)
            if after.active != before.active and not caller.is_operator:
                raise Forbidden("Only the operator opens and closes companies")
            if after == before:
                return before
            if after.mfa_required != before.mfa_required:
                (await person(act.connection, caller)).require_recent()
            after = replace(after, version=before.version + 1)
            await store.update_company(act.connection, after)
            await act.publish_company(after)
            await _withdraw_tokens(act, before, after)
            await act.audit("company_changed", company_id, [company_id], changed_fields(before, after))
        return after

    async def list_locations(
        self, caller: Principal, company_id: UUID, after: UUID | None, limit: int
    ) -> Sequence[Location]:
        async with acquire(self._pool) as connection:
            only = await _location_limit(connection, caller, company_id)
            return await store.list_locations(connection, company_id, only, after, limit)

    async def get_location(self, caller: Principal, company_id: UUID, location_id: UUID) -> Location:
        async with acquire(self._pool) as connection:
            only = await _location_limit(connection, caller, company_id)
            found = await store.location(connection, company_id, location_id)
        if found is None or (only is not None and found.id not in only):
            raise NotFound()
        return found

    async def create_location(self, caller: Principal, company_id: UUID, fields: Mapping[str, Any]) -> Location:
        location = Location(company_id=company_id, id=uuid7(), **fields)
        async with administration(self._pool, caller) as act:
            await _administered(act.connection, caller, company_id)
            await store.insert_location(act.connection, location)
            await _written(act, location, "location_created")
        return location

    async def change_location(
        self, caller: Principal, company_id: UUID, location_id: UUID, fields: Mapping[str, Any]
    ) -> Location:
        async with administration(self._pool, caller) as act:
            await _administered(act.connection, caller, company_id)
            before = await store.location(act.connection, company_id, location_id)
            if before is None:
                raise NotFound()
            after = replace(before, **fields)
            if after == before:
                return before
            after = replace(after, version=before.version + 1)
            await store.update_location(act.connection, after)
            await _written(act, after, "location_changed", changed_fields(before, after))
        return after


async def _written(act: Act, location: Location, action: str, changed: Sequence[str] = ()) -> None:
    await act.publish_location(location)
    await act.audit(action, location.id, [location.company_id], changed)


async def _withdraw_tokens(act: Act, before: Company, after: Company) -> None:
    """Tokens for a company that is closed, or that now requires a second factor, say what is no longer so."""
    closed = before.active and not after.active
    if closed or (after.mfa_required and not before.mfa_required):
        for user_id, version in await access.advance_members(act.connection, after.id):
            await act.publish_access(user_id, version)
    if closed:
        for client in await clients.list_clients(act.connection, after.id, None, _ALL):
            client = replace(client, version=client.version + 1)
            await clients.save_client(act.connection, client)
            await act.publish_client(client)
            await act.publish_access(client.id, client.version)


async def _visible(connection: Connection, caller: Principal, company_id: UUID) -> Company:
    editor = await current_editor(connection, caller)
    found = await store.company(connection, company_id) if editor.may_grant(company_id) else None
    if found is None:
        raise NotFound()
    return found


async def _administered(connection: Connection, caller: Principal, company_id: UUID) -> Company:
    """A company that the caller sees and may change now: one that requires a second factor, only with one, although he
    may be in another company that does not."""
    found = await _visible(connection, caller, company_id)
    if found.mfa_required and not caller.is_operator:
        (await person(connection, caller)).require_second_factor()
    return found


async def _location_limit(connection: Connection, caller: Principal, company_id: UUID) -> frozenset[UUID] | None:
    """The locations of a company that the caller may read; None: all of them. R1: the restricted role has its own."""
    await _visible(connection, caller, company_id)
    claimed = (await current_user(connection, caller)).claimed_locations(company_id)
    return None if claimed == "*" else frozenset(claimed)
