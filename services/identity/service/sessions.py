"""Sessions as people see them: list them, end one, end all; and an administrator who ends another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.identity.domain import User, check_authority
from services.identity.service.acts import Act, administration, current_editor
from services.identity.service.persons import person
from services.identity.service.users import member
from services.identity.store import factors as factor_store
from services.identity.store import sessions as store
from shared.access.principal import Principal
from shared.db import acquire
from shared.errors import Forbidden, NotFound

_MOST = 500


@dataclass(frozen=True, slots=True)
class Session:
    """`current`: the one that the caller's token belongs to."""

    id: UUID
    company_id: UUID | None
    methods: tuple[str, ...]
    started_at: datetime
    issued_at: datetime
    expires_at: datetime
    ends_at: datetime
    current: bool


class Sessions:
    """What ends a session makes the user's access tokens stale, those of his other sessions too: these are refreshed
    and go on."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def mine(self, caller: Principal) -> Sequence[Session]:
        """The caller's open sessions, newest first."""
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
            rows = await store.list_sessions(connection, me.user.id, _MOST)
        return [
            Session(
                id=row.id,
                company_id=row.company_id,
                methods=row.methods,
                started_at=row.started_at,
                issued_at=row.issued_at,
                expires_at=row.expires_at,
                ends_at=row.family_expires_at,
                current=row.id == me.session_id,
            )
            for row in rows
        ]

    async def end_mine(self, caller: Principal, session_id: UUID) -> None:
        """With any open session: who throws out a thief may have lost to him what a fresh sign-in takes."""
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            await act.withdraw_tokens(me.user.id)
            if not await store.end_session(act.connection, me.user.id, session_id):
                raise NotFound()
            await act.audit("session_ended", me.user.id, me.user.company_ids)

    async def end_all(self, caller: Principal, user_id: UUID) -> None:
        """As an administrator of the user, with the rights that a new password takes."""
        async with administration(self._pool, caller) as act:
            user = await administered(act, caller, user_id)
            await act.withdraw_tokens(user.id)
            await store.end_sessions(act.connection, user.id)
            await act.audit("sessions_ended", user.id, user.company_ids)

    async def reset_factors(self, caller: Principal, user_id: UUID) -> None:
        """For somebody who has lost them all: second factors, passkeys and links to a provider go, sessions end."""
        async with administration(self._pool, caller) as act:
            user = await administered(act, caller, user_id)
            (await person(act.connection, caller)).require_recent()
            await act.withdraw_tokens(user.id)
            await factor_store.remove_all(act.connection, user.id)
            await store.end_sessions(act.connection, user.id)
            await act.audit("mfa_reset", user.id, user.company_ids)


async def administered(act: Act, caller: Principal, user_id: UUID) -> User:
    """A user whose sign-in the caller may administer: not his own. Raises NotFound and Forbidden."""
    editor = await current_editor(act.connection, caller)
    user = await member(act.connection, editor, user_id)
    if user.id == editor.id:
        raise Forbidden("Use /v1/me for your own sign-in")
    check_authority(editor, user, user, new_password=True)
    return user
