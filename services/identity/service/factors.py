"""A person's second factors: codes of an authenticator app (TOTP, RFC 6238) and recovery codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from services.identity import codes
from services.identity.domain import User
from services.identity.sealing import Sealer
from services.identity.service.acts import Act, administration, own_act
from services.identity.service.issuing import PASSWORD_AND_CODE
from services.identity.service.persons import end_other_sessions, person, strengthen
from services.identity.service.throttle import Throttle, account_name
from services.identity.store import factors as store
from services.identity.store.factors import Factors
from shared.access.principal import Principal
from shared.db import Connection, acquire
from shared.errors import Conflict, Invalid, NotFound


class NewTotp(NamedTuple):
    """A secret, shown once."""

    secret: str
    otpauth_uri: str


def totp_purpose(user_id: object) -> str:
    """What a TOTP secret is sealed for."""
    return f"totp {user_id}"


async def accept_code(connection: Connection, sealer: Sealer, user: User, code: str) -> bool:
    """Whether a code is right, and with that used up: one of the authenticator app, or a recovery code."""
    typed = codes.tidy(code)
    if codes.is_totp(typed):
        return await _accept_totp(connection, sealer, user, typed, confirmed=True)
    digest = codes.code_hash(typed)
    if digest is None or not await store.use_recovery_code(connection, user.id, digest):
        return False
    await own_act(connection, user, "recovery_code_used")
    return True


async def _accept_totp(connection: Connection, sealer: Sealer, user: User, code: str, *, confirmed: bool) -> bool:
    sealed = await store.totp_secret(connection, user.id, confirmed=confirmed)
    if sealed is None:
        return False
    step = codes.totp_step(sealer.open(sealed, totp_purpose(user.id)).decode(), code)
    return step is not None and await store.use_step(connection, user.id, sealed, step)


def _wrong_code() -> Invalid:
    return Invalid.field("code", "wrong_code", "This code is not right, or it was used before")


class SecondFactors:
    """Of the caller himself. Guesses at codes count as failed sign-ins of his account. With `end_others` his other
    sessions end with the change."""

    def __init__(self, pool: asyncpg.Pool, sealer: Sealer, throttle: Throttle) -> None:
        self._pool = pool
        self._sealer = sealer
        self._throttle = throttle

    async def status(self, caller: Principal) -> Factors:
        async with acquire(self._pool) as connection:
            return (await person(connection, caller)).factors

    async def begin_totp(self, caller: Principal) -> NewTotp:
        """A new secret, good for nothing until a code of it is confirmed. Raises Conflict when one is in use."""
        secret = codes.new_totp_secret()
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            me.require_recent()
            if me.factors.totp:
                raise Conflict("You have an authenticator app already: remove it first", code="totp_in_use")
            sealed = self._sealer.seal(secret.encode(), totp_purpose(me.user.id))
            await store.save_totp(act.connection, me.user.id, sealed)
            await act.audit("totp_begun", me.user.id, me.user.company_ids)
        return NewTotp(secret, codes.totp_uri(secret, me.user.user_name))

    async def confirm_totp(
        self, caller: Principal, code: str, address: str, *, end_others: bool = False
    ) -> Sequence[str]:
        """From now on signing in takes a code. Returns ten new recovery codes. Raises NotFound, Invalid."""
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
            if await store.totp_secret(connection, me.user.id, confirmed=False) is None:
                raise NotFound()
        async with (
            self._throttle.attempt(account_name(me.user.user_name), address, "totp_refused") as attempt,
            administration(self._pool, caller) as act,
        ):
            attempt.owner = me.user
            me = await person(act.connection, caller)
            me.require_recent()
            typed = codes.tidy(code)
            if codes.is_totp(typed) and await _accept_totp(
                act.connection, self._sealer, me.user, typed, confirmed=False
            ):
                attempt.was_right()
                if end_others:
                    await end_other_sessions(act, me)
                fresh = await _new_recovery_codes(act, me.user)
                await strengthen(act.connection, me, PASSWORD_AND_CODE)
                await act.audit("totp_enrolled", me.user.id, me.user.company_ids)
        if not attempt.right:
            raise _wrong_code()
        return fresh

    async def remove_totp(self, caller: Principal, code: str, address: str, *, end_others: bool = False) -> None:
        """With a code of the app, or a recovery code. Raises NotFound, Invalid."""
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
        if not me.factors.totp:
            raise NotFound()
        async with (
            self._throttle.attempt(account_name(me.user.user_name), address, "totp_refused") as attempt,
            administration(self._pool, caller) as act,
        ):
            attempt.owner = me.user
            me = await person(act.connection, caller)
            if await accept_code(act.connection, self._sealer, me.user, code):
                attempt.was_right()
                if end_others:
                    await end_other_sessions(act, me)
                await store.remove_totp(act.connection, me.user.id)
                if not me.factors.passkeys:
                    await store.replace_recovery_codes(act.connection, me.user.id, [])
                await act.audit("totp_removed", me.user.id, me.user.company_ids)
        if not attempt.right:
            raise _wrong_code()

    async def renew_recovery_codes(self, caller: Principal, *, end_others: bool = False) -> Sequence[str]:
        """Ten new ones; the old ones work no more. Raises Conflict when there is nothing they could stand in for."""
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            me.require_recent()
            if not me.factors.any:
                raise Conflict("Enrol a second factor first", code="no_second_factor")
            if end_others:
                await end_other_sessions(act, me)
            return await _new_recovery_codes(act, me.user)


async def _new_recovery_codes(act: Act, user: User) -> Sequence[str]:
    fresh = [codes.new_code() for _ in range(codes.RECOVERY_CODES)]
    hashes = [digest for digest in map(codes.code_hash, fresh) if digest is not None]
    await store.replace_recovery_codes(act.connection, user.id, hashes)
    await act.audit("recovery_codes_made", user.id, user.company_ids)
    return fresh


async def seal_again(act: Act, sealer: Sealer) -> None:
    """Every TOTP secret under the present sealing key."""
    for user_id, sealed in await store.sealed_secrets(act.connection):
        if not sealer.is_current(sealed):
            fresh = sealer.seal(sealer.open(sealed, totp_purpose(user_id)), totp_purpose(user_id))
            await store.seal_again(act.connection, user_id, sealed, fresh)
