"""Changing one's password with the old one, and starting anew with a code from an administrator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from services.identity import codes
from services.identity.domain import OWN_NAMES, TYPED_PASSWORD, User, nfkc
from services.identity.passwords import Hasher
from services.identity.service.acts import Act, administration, own_act
from services.identity.service.password_rules import PasswordRules, names_around
from services.identity.service.persons import person
from services.identity.service.sessions import administered
from services.identity.service.throttle import Throttle, account_name
from services.identity.store import factors, sessions, users
from shared.access.principal import Principal
from shared.db import Connection, acquire
from shared.errors import Conflict, Invalid

_RESET: Final = timedelta(hours=1)


class ResetCode(NamedTuple):
    """Shown once."""

    code: str
    expires_at: datetime


class Passwords:
    """Both ways end the user's other sessions and his access tokens. Guesses count as failed sign-ins."""

    def __init__(self, pool: asyncpg.Pool, hasher: Hasher, rules: PasswordRules, throttle: Throttle) -> None:
        self._pool = pool
        self._hasher = hasher
        self._rules = rules
        self._throttle = throttle

    async def change(self, caller: Principal, old: str, new: str, address: str) -> None:
        """Raises Invalid naming `old_password` or `password`, TooManyRequests, Unavailable."""
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
            found = await users.user_by_name(connection, me.user.user_name)
            names = await _names(connection, me.user)
        chosen = await self._rules.check(new, names)
        encoded = found[1] if found else None
        name = account_name(me.user.user_name)
        async with self._throttle.attempt(name, address, "password_change_failed") as attempt:
            attempt.owner = me.user
            if len(old) <= TYPED_PASSWORD and await self._hasher.verify(encoded, nfkc(old)):
                attempt.was_right()
        if not attempt.right:
            raise Invalid.field("old_password", "wrong_password", "This is not your password")
        if chosen == nfkc(old):
            raise Invalid.field("password", "unchanged", "Choose another password than the one you have")
        fresh = await self._hasher.hash(chosen)
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            again = await users.user_for_share(act.connection, me.user.id)
            if again is None or again[1] != encoded:
                raise Conflict("The password has been changed meanwhile")
            await _set(act, me.user, fresh, but=me.session_id)
            await act.audit("password_changed", me.user.id, me.user.company_ids)

    async def issue_reset(self, caller: Principal, user_id: UUID) -> ResetCode:
        """A code with which the user chooses a password within the hour. Until then the old one stays good."""
        made = ResetCode(codes.new_code(), datetime.now(UTC) + _RESET)
        digest = codes.code_hash(made.code)
        async with administration(self._pool, caller) as act:
            user = await administered(act, caller, user_id)
            (await person(act.connection, caller)).require_recent()
            if digest is not None:
                await factors.save_reset(act.connection, user.id, digest, made.expires_at)
            await act.audit("password_reset_issued", user.id, user.company_ids)
        return made

    async def reset(self, user_name: str, code: str, password: str, address: str) -> None:
        """Unknown user, wrong code and old code give one answer. A second factor is still asked for at sign-in."""
        name = account_name(user_name)
        await self._rules.check(password, (name,))
        digest = codes.code_hash(code) or b""
        async with self._throttle.attempt(name, address, "password_reset_failed") as attempt:
            async with acquire(self._pool) as connection:
                user, _ = await users.user_by_name(connection, name) or (None, None)
                attempt.owner = user
                known = user is not None and await factors.reset_is_open(connection, user.id, digest)
            if user is not None and user.active and known:
                attempt.was_right()
        done = False
        if user is not None and attempt.right:
            async with acquire(self._pool) as connection:
                names = await _names(connection, user)
            # Again, now that it may be known who he is: a refusal leaves the code good.
            fresh = await self._hasher.hash(await self._rules.check(password, names))
            async with administration(self._pool) as act:
                if await factors.use_reset(act.connection, user.id, digest):
                    await _set(act, user, fresh, but=None)
                    await own_act(act.connection, user, "password_reset")
                    done = True
        if not done:
            raise Invalid.field("code", "wrong_code", "The user name or the code is not right, or the code has expired")


async def _names(connection: Connection, user: User) -> Sequence[str]:
    return await names_around(connection, [getattr(user, name) for name in OWN_NAMES], user.company_ids)


async def _set(act: Act, user: User, encoded: str, *, but: UUID | None) -> None:
    await users.set_password(act.connection, user.id, encoded)
    await factors.drop_reset(act.connection, user.id)
    await act.withdraw_tokens(user.id)
    await sessions.end_sessions(act.connection, user.id, but=but)
